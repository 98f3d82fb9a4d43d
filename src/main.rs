//! The `ringpost` binary: everything is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringpost::cli::main()
}
