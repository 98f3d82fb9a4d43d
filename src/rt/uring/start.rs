//! From listeners and closures to running shards; and the self-check that says why it cannot be.

use super::driver::Driver;
use super::ring::Ring;
use super::wake::Wakers;
use crate::rt::Shard;
use glommio::{Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Makes a shard on its own thread: shards are not `Send`.
pub type Build = Box<dyn FnOnce() -> Box<dyn Shard> + Send>;

/// Registered memory of an executor, in bytes, for the cold tasks only. Locked memory: the limit is often 8 MiB.
const IO_MEMORY_BYTES: usize = 512 << 10;
/// Waiting connections of a listener; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// A message from another core reaches a busy executor's default queue after some 50 ms, a queue with this latency class
/// within 0.2 ms.
const LATENCY: Latency = Latency::Matters(Duration::from_millis(1));

/// Why the shards could not start, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring is missing, forbidden or starved.
    #[error("io_uring: {error}\n  cause: {cause}\n  cure:  {cure}")]
    Uring {
        /// What the kernel said.
        error: io::Error,
        /// What that means.
        cause: &'static str,
        /// What an operator does about it.
        cure: &'static str,
    },
    /// A listener's address cannot be bound.
    #[error("listen on {address}: {error}\n  cure:  {cure}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the kernel said.
        error: io::Error,
        /// What an operator does about it.
        cure: &'static str,
    },
    /// A shard's executor could not be made.
    #[error("shard {shard}: {error}")]
    Executor {
        /// Which shard.
        shard: usize,
        /// What glommio or the kernel said.
        error: io::Error,
    },
}

/// How the shards meet the kernel. The default is the fastest that the kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Sockets by epoll even where provided buffer rings exist.
    pub epoll: bool,
    /// Wait through glommio's reactor, not in the shard's ring: to measure what that costs.
    pub wait_by_glommio: bool,
}

impl Options {
    /// From RINGPOST_SOCKETS=epoll and RINGPOST_WAIT=glommio: for tests and measurements, not for configuration.
    pub fn from_env() -> Self {
        let is = |name, value: &str| std::env::var_os(name).is_some_and(|v| v == value);
        Options { epoll: is("RINGPOST_SOCKETS", "epoll"), wait_by_glommio: is("RINGPOST_WAIT", "glommio") }
    }
}

/// The running shards.
#[derive(Debug)]
pub struct ShardThreads {
    threads: Vec<JoinHandle<()>>,
    ended: mpsc::Receiver<(usize, io::Result<()>)>,
}

impl ShardThreads {
    /// Waits for all shards to stop. The first failure is returned at once, to end the process: its mail is safe in the
    /// spool, and a start with all shards serves it; a process without one of its shards does not.
    pub fn join(self) -> io::Result<()> {
        for _ in &self.threads {
            let (shard, result) =
                self.ended.recv().unwrap_or_else(|_| (usize::MAX, Err(io::Error::other("a shard panicked"))));
            if let Err(error) = result {
                return Err(io::Error::new(error.kind(), format!("shard {shard}: {error}")));
            }
        }
        for thread in self.threads {
            drop(thread.join());
        }
        Ok(())
    }
}

/// Binds every address once per shard, then starts one pinned executor per shard, with what `build` makes in it.
pub fn start(
    addresses: &[SocketAddr],
    wakers: &Wakers,
    options: Options,
    build: Vec<Build>,
) -> Result<ShardThreads, StartError> {
    self_check()?;
    // All sockets of an address before any shard accepts: the kernel spreads connections over those that exist.
    let mut listeners = Vec::new();
    for _ in 0..build.len() {
        listeners.push(addresses.iter().map(|a| listen(*a)).collect::<Result<Vec<_>, _>>()?);
    }
    let cpus = usable_cpus();
    let origin = Instant::now();
    let mut threads = Vec::new();
    let (started, starts) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    for (shard, (build, listeners)) in build.into_iter().zip(listeners).enumerate() {
        // More shards than CPUs (tests, small containers) share them.
        let cpu = cpus.get(shard % cpus.len().max(1)).copied();
        let wakers = wakers.clone();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn({
                let (started, end) = (started.clone(), end.clone());
                move || {
                    let result = run(shard, cpu, wakers, listeners, origin, options, started, build);
                    // Nobody listens any more if another shard has failed before.
                    drop(end.send((shard, result)));
                }
            })
            .map_err(|error| StartError::Executor { shard, error })?;
        threads.push(thread);
    }
    drop((started, end));
    for _ in &threads {
        if starts.recv().is_err() {
            // One ended without having started; its result says why.
            let failed = ended.recv().unwrap_or_else(|_| (0, Err(io::Error::other("a shard panicked"))));
            let error = failed.1.err().unwrap_or_else(|| io::Error::other("it ended at once"));
            return Err(StartError::Executor { shard: failed.0, error });
        }
    }
    Ok(ShardThreads { threads, ended })
}

#[allow(clippy::too_many_arguments, reason = "what a thread is given to start with")]
fn run(
    shard: usize,
    cpu: Option<usize>,
    wakers: Wakers,
    listeners: Vec<TcpListener>,
    origin: Instant,
    options: Options,
    started: mpsc::Sender<()>,
    build: Build,
) -> io::Result<()> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = |placement| {
        LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{shard}"))
            .io_memory(IO_MEMORY_BYTES)
            // Its one thread would sit on the shard's own CPU otherwise.
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
            .make()
    };
    let executor = match executor(placement) {
        Ok(executor) => executor,
        Err(error) if cpu.is_some() => {
            tracing::warn!(shard, ?cpu, %error, "the shard could not be pinned: it runs on any CPU");
            executor(Placement::Unbound).map_err(io::Error::from)?
        }
        Err(error) => return Err(error.into()),
    };
    executor.run(async move {
        let queue = glommio::executor().create_task_queue(Shares::Static(1000), LATENCY, "shard");
        let task = glommio::spawn_local_into(
            async move {
                let driver = Driver::new(shard, wakers, listeners, queue, origin, options)?;
                let _ = started.send(());
                drop(started);
                driver.run(build()).await
            },
            queue,
        );
        task.map_err(io::Error::from)?.await
    })
}

/// The CPUs this process may use, by the scheduler's affinity mask (containers narrow it).
#[allow(unsafe_code)]
fn usable_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is plain data, zero is its empty value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable and of the size given.
    let done = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if done < 0 {
        return Vec::new();
    }
    // SAFETY: the index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// SO_REUSEPORT: a socket per shard, each with its own queue. SO_REUSEADDR: a restart binds while old connections are
/// in TIME_WAIT.
fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it: replies are never held back for more of them.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|error| {
        let cure = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => "another program (or a running ringpost of another user) listens there: stop it or change [[listener]] address",
            Some(libc::EACCES) => "ports below 1024 need CAP_NET_BIND_SERVICE: see config/ringpost.service",
            Some(libc::EADDRNOTAVAIL) => "no interface has this address: bring it up first, or change [[listener]] address",
            _ => "check [[listener]] address",
        };
        StartError::Listen { address, error, cure }
    })
}

/// Tries the smallest ring before anything else, so that the cause is named once and in words.
fn self_check() -> Result<(), StartError> {
    let Err(error) = Ring::new(false) else { return Ok(()) };
    let (cause, cure) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (
            "this kernel has no io_uring, or a sandbox hides it",
            "run Linux 5.8 or newer (6.1 for full speed); in a container allow the io_uring_* system calls in its seccomp profile",
        ),
        Some(libc::EPERM) => (
            "io_uring is forbidden here: by kernel.io_uring_disabled or by a container's seccomp profile",
            "sysctl kernel.io_uring_disabled=0 (or 1, and add the service's group to kernel.io_uring_group); in a container allow io_uring_setup, io_uring_enter and io_uring_register",
        ),
        Some(libc::ENOMEM) => (
            "the limit of locked memory is too small for a ring",
            "raise it: LimitMEMLOCK=64M in the unit (config/ringpost.service), or ulimit -l 65536",
        ),
        Some(libc::EMFILE | libc::ENFILE) => ("no descriptors are left", "raise LimitNOFILE in the unit, or ulimit -n"),
        _ => ("the kernel refused to set up a ring", "see the error; kernels from 6.1 are tested"),
    };
    Err(StartError::Uring { error, cause, cure })
}
