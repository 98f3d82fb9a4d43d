//! PURE. What a letter of the simulated world asks for beside being delivered: the parameters of its MAIL and RCPT.
//!
//! Input: a seed's choices. Outputs: [`Asks`], in the words of the commands for the client, and as facts for the oracle. It
//! refuses to know what the relay makes of it.

use crate::rt::sim::Rng;
use std::fmt::Write;
use std::time::Duration;

/// A time by which a letter is to be delivered (RFC 2852 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// From MAIL on.
    pub time: Duration,
    /// `R`, not `N`: it is of no use later.
    pub return_late: bool,
    /// `T`
    pub trace: bool,
}

impl By {
    /// What stands behind the number.
    pub fn mode(self) -> &'static str {
        match (self.return_late, self.trace) {
            (true, false) => ";R",
            (true, true) => ";RT",
            (false, false) => ";N",
            (false, true) => ";NT",
        }
    }
}

/// See the module. All recipients of a letter have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// `REQUIRETLS` (RFC 8689)
    pub require_tls: bool,
    /// `BY` (RFC 2852)
    pub by: Option<By>,
    /// `HOLDFOR` (RFC 4865)
    pub hold: Option<Duration>,
    /// `BODY=BINARYMIME` (RFC 3030 §3)
    pub binary: bool,
    /// `SMTPUTF8` (RFC 6531), with addresses and header in ASCII
    pub utf8: bool,
    /// `RET` (RFC 3461 §4.3), the value
    pub ret: Option<&'static str>,
    /// `NOTIFY` (RFC 3461 §4.1), the value
    pub notify: Option<&'static str>,
    /// Others, which bind nobody: `ENVID`, `MT-PRIORITY`, `SIZE`, `AUTH`.
    others: [bool; 4],
    /// `ORCPT` (RFC 3461 §4.2)
    pub orcpt: bool,
}

/// RFC 3461 §4.4, RFC 6710 §4.1: these go on as they came.
const ENVID: &str = "ENVID=a+2Bb+3D7";
const PRIORITY: &str = "MT-PRIORITY=3";
const OTHERS: [&str; 4] = [ENVID, PRIORITY, "SIZE=100", "AUTH=<>"];
const ORCPT: &str = "ORCPT=rfc822;a+2Bb@elsewhere.test";

impl Asks {
    /// Draws some, most of the time few. `holds`: the listener is one of submission; `secure`: it will be in TLS; `chunks`:
    /// it goes by BDAT.
    pub fn draw(rng: &mut Rng, holds: bool, secure: bool, chunks: bool) -> Asks {
        let mut asks = Asks { others: [0; 4].map(|_| rng.one_in(6)), orcpt: rng.one_in(6), ..Asks::default() };
        if rng.one_in(4) {
            asks.notify =
                Some(*rng.pick(&["NEVER", "SUCCESS", "SUCCESS,FAILURE", "FAILURE", "DELAY", "FAILURE,DELAY"]));
        }
        if rng.one_in(5) {
            asks.ret = Some(*rng.pick(&["HDRS", "FULL"]));
        }
        match rng.below(12) {
            0 | 1 => {
                // From "at once" to longer than mail is tried.
                let seconds = *rng.pick(&[1, 10, 60, 300, 900, 86_400]);
                let (return_late, trace) = (rng.one_in(2), rng.one_in(4));
                asks.by = Some(By { time: Duration::from_secs(seconds), return_late, trace });
            }
            2 if holds => asks.hold = Some(Duration::from_secs(rng.within(1..400))),
            3 if secure => asks.require_tls = true,
            4 if chunks => asks.binary = true,
            5 => asks.utf8 = true,
            _ => {}
        }
        asks
    }

    /// What follows the path of MAIL.
    pub fn mail(&self) -> String {
        let mut said = String::new();
        let mut say = |word: &str| said.extend([" ", word]);
        if self.require_tls {
            say("REQUIRETLS");
        }
        if self.binary {
            say("BODY=BINARYMIME");
        }
        if self.utf8 {
            say("SMTPUTF8");
        }
        OTHERS.iter().zip(self.others).filter(|(_, asked)| *asked).for_each(|(word, _)| say(word));
        if let Some(ret) = self.ret {
            say(&format!("RET={ret}"));
        }
        if let Some(by) = self.by {
            say(&format!("BY={}{}", by.time.as_secs(), by.mode()));
        }
        if let Some(hold) = self.hold {
            say(&format!("HOLDFOR={}", hold.as_secs()));
        }
        said
    }

    /// What follows the path of RCPT.
    pub fn rcpt(&self) -> String {
        let mut said = String::new();
        if let Some(notify) = self.notify {
            let _ = write!(said, " NOTIFY={notify}");
        }
        if self.orcpt {
            said.extend([" ", ORCPT]);
        }
        said
    }

    /// Whether the sender is to be told of `what` (RFC 3461 §4.1: of failures, if nothing else was said).
    pub fn is_told_of(&self, what: &str) -> bool {
        self.notify.map_or(what == "FAILURE", |notify| notify.split(',').any(|word| word == what))
    }

    /// Whether the sender is told that a next hop has it that announces `dsn` and `deliver_by` (RFC 3461 §5.2.2,
    /// RFC 2852 §4.1.4).
    pub fn is_told_of_relaying(&self, dsn: bool, deliver_by: bool) -> bool {
        let by = self.by.is_some_and(|by| by.trace || !by.return_late && !deliver_by);
        self.is_told_of("SUCCESS") && !dsn || by && self.notify != Some("NEVER")
    }

    /// What MAIL must say to a next hop that has `announced` so much, word for word. A higher priority is for those who are
    /// `trusted` only (RFC 6710 §5).
    pub fn mail_onward(&self, trusted: bool, announced: impl Fn(&str) -> bool) -> Vec<String> {
        let mut words = Vec::new();
        let mut say = |asked: bool, keyword: &str, word: &str| {
            if asked && announced(keyword) {
                words.push(word.to_owned());
            }
        };
        // RFC 8689 §4.1: RET is disregarded then.
        let ret = self.ret.filter(|_| !self.require_tls);
        say(ret.is_some(), "DSN", &format!("RET={}", ret.unwrap_or_default()));
        say(self.others[0], "DSN", ENVID);
        say(self.others[1] && trusted, "MT-PRIORITY", PRIORITY);
        say(self.utf8, "SMTPUTF8", "SMTPUTF8");
        say(self.binary, "BINARYMIME", "BODY=BINARYMIME");
        words
    }
}
