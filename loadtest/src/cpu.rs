//! CPU time and memory of threads and processes, as the kernel counts them in /proc.

use std::fs;
use std::time::Duration;

/// A thread of this process whose CPU time can be read from any other.
#[derive(Clone, Debug)]
pub struct ThreadClock(String);

impl ThreadClock {
    /// The calling thread's.
    pub fn current() -> ThreadClock {
        let link = fs::read_link("/proc/thread-self").map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        ThreadClock(format!("/proc/{link}/schedstat"))
    }

    /// Time this thread has run, user and kernel, in the kernel's own nanoseconds. Zero once the thread has ended.
    pub fn read(&self) -> Duration {
        let ns = fs::read_to_string(&self.0)
            .ok()
            .and_then(|s| s.split_ascii_whitespace().next().and_then(|n| n.parse().ok()))
            .unwrap_or(0);
        Duration::from_nanos(ns)
    }
}

/// Ticks per second of the times in /proc/PID/stat: USER_HZ, 100 on every architecture Rust's Linux targets support.
const USER_HZ: f64 = 100.0;

/// CPU time of a process, all its threads (ended ones and io_uring workers too), user and kernel, to 10 ms.
pub fn of_process(pid: u32) -> Duration {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    // The command's name may hold spaces and parentheses: count fields from behind it (proc(5): utime is the 14th).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Duration::from_secs_f64((ticks(11) + ticks(12)) / USER_HZ)
}

/// The process and all that descend from it: a relay may be many processes.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        if let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", all[at])) {
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                all.extend(children.split_ascii_whitespace().filter_map(|c| c.parse::<u32>().ok()));
            }
        }
        at += 1;
    }
    all
}

/// A line of /proc/PID/status that counts kB, in octets; `None` when the process is gone.
fn status_bytes(pid: u32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|k| k << 10)
}

/// Resident memory now, octets.
pub fn resident(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmRSS")
}

/// The most resident memory the process ever had, octets.
pub fn resident_peak(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_its_own_process() {
        let clock = ThreadClock::current();
        let before = clock.read();
        let mut x = 1u64;
        while clock.read() - before < Duration::from_millis(5) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(resident(std::process::id()).unwrap() > 0);
        assert!(resident_peak(std::process::id()).unwrap() >= resident(std::process::id()).unwrap() / 2);
        assert_eq!(family(std::process::id())[0], std::process::id());
    }
}
