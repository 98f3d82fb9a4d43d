//! The relay's own `main`, called in this program's hidden subcommand `relay`, so that `run` can start a relay as a
//! child process of the same executable. The one place that calls into the library `ringpost`.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the relay with `args` (the first is the program's name) and returns its exit status.
pub fn relay_main(args: Vec<OsString>) -> ExitCode {
    ringpost::cli::main_from(args)
}
