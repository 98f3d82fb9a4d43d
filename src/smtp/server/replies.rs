//! PURE. Which reply a wrong command line or wrong message data gets.

use crate::smtp::address::PathError;
use crate::smtp::command::{CommandError, Verb};
use crate::smtp::data::Fault;
use crate::smtp::reply::text;

pub(super) fn error_reply(error: CommandError) -> &'static [u8] {
    use {PathError as P, Verb as V};
    match error {
        CommandError::NotPrintable => text::BAD_LINE,
        CommandError::Unknown => text::UNKNOWN,
        CommandError::Arguments(V::Hello) => text::BAD_HOST,
        CommandError::Arguments(V::Mail) => text::BAD_MAIL,
        CommandError::Arguments(V::Rcpt) => text::BAD_RCPT,
        CommandError::Arguments(V::Bdat) => text::BAD_BDAT,
        CommandError::Arguments(V::Auth) => text::BAD_AUTH,
        CommandError::Arguments(V::Other) => text::BAD_ARGUMENTS,
        CommandError::Path(V::Rcpt, P::Syntax) => text::BAD_RECIPIENT,
        CommandError::Path(V::Rcpt, P::NoDomain) => text::RECIPIENT_WITHOUT_DOMAIN,
        CommandError::Path(V::Rcpt, P::TooLong) => text::RECIPIENT_TOO_LONG,
        CommandError::Path(_, P::Syntax) => text::BAD_SENDER,
        CommandError::Path(_, P::NoDomain) => text::SENDER_WITHOUT_DOMAIN,
        CommandError::Path(_, P::TooLong) => text::SENDER_TOO_LONG,
        CommandError::UnknownParameter(_) => text::UNKNOWN_PARAMETER,
    }
}

/// What data with this fault is refused with.
pub(crate) fn fault_reply(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::BareLf => text::BARE_LF,
        Fault::BareCr => text::BARE_CR,
        Fault::Nul => text::NUL,
        Fault::TooBig => text::TOO_BIG,
        Fault::Loop => text::LOOP,
    }
}
