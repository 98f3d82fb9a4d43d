//! Recovery of a spool whose files are anything: what real logs wrote, torn by crashes, damaged, exchanged, forged.
//!
//! Input: a program, one byte for each step and what it needs. Steps accept, stream and settle mail by the real log,
//! complete its writes, crash it, damage its files (`damage`). Checked at each start: no message is found that was not
//! handed to a log, as it was, to the byte; without damage none is lost and no outcome forgotten; recovering the result
//! again finds the same; what is unreadable is in quarantine with all its bytes, and stays there.

mod damage;
mod world;

use crate::Target;
use crate::input::Input;
use world::World;

/// The target.
pub const TARGET: Target = Target { name: "spool", run, max_bytes: 1024, words: &[], test_runs: 250 };

/// Bounds the time of one input.
const STEPS: usize = 80;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new(1 + input.below(3));
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let step = input.below(20);
        if step >= 12 {
            damage::damage(&mut world, step - 12, &mut input);
            continue;
        }
        // What is damaged has to start again.
        if !world.start_if_stopped() {
            return;
        }
        let shard = input.u8();
        match step {
            0..=2 => {
                let (recipients, bytes) = (1 + input.below(3), usize::from(input.u8()) * 24);
                world.accept(shard, recipients, bytes);
            }
            3 => {
                let (chunks, bytes) = (1 + input.below(4), 100 + usize::from(input.u8()) * 20);
                world.stream(shard, &vec![bytes; chunks]);
            }
            4 | 5 => {
                let (message, recipient) = (input.u8(), input.u8());
                world.settle(usize::from(message), recipient);
            }
            6 => world.complete(shard),
            7 => world.advance(u64::from(shard)),
            8 | 9 => world.quiesce(),
            _ => {
                world.crash(shard);
                world.shards = 1 + input.below(4);
            }
        }
        if !world.stopped {
            world.turn();
        }
    }
    for shards in [world.shards, 1, 3] {
        world.crash(0);
        world.shards = shards;
        if !world.start_if_stopped() {
            return;
        }
    }
    world.quiesce();
}
