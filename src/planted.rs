//! Bugs planted on purpose, to show that the simulator sees them. Each stands in the line of production code where it
//! would really happen, as `planted!(Name)`; the tests switch one on, for their thread, by [`plant`].
//!
//! Outside of `cfg(test)` the macro is the literal `false`, so no compiled program holds the switch or the bug, and
//! [`Bug`] does not exist. It refuses to plant two bugs at once, and to reach other threads: recovery must run with
//! `scan_threads` = 1 to see one.

/// Whether this bug is planted now, on this thread. `false` in everything but tests.
#[cfg(not(test))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Whether this bug is planted now, on this thread.
#[cfg(test)]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_planted($crate::planted::Bug::$bug)
    };
}

#[cfg(test)]
pub(crate) use switches::{Bug, is_planted, plant};

#[cfg(test)]
mod switches {
    use std::cell::Cell;
    use std::marker::PhantomData;

    macro_rules! bugs {
        ($($(#[doc = $what:literal])+ $name:ident),+ $(,)?) => {
            /// What can be planted, with what it does.
            #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
            pub(crate) enum Bug {
                $($(#[doc = $what])+ $name),+
            }

            impl Bug {
                /// All of them.
                pub(crate) const ALL: &[Bug] = &[$(Bug::$name),+];

                /// What it does, for a report.
                pub(crate) fn what(self) -> &'static str {
                    match self {
                        $(Bug::$name => concat!($($what),+).trim_ascii_start()),+
                    }
                }
            }
        };
    }

    bugs! {
        /// 250 when the commit is handed to the disk, not when it is synced
        AckBeforeSync,
        /// checksums of records are not compared, neither at recovery nor when reading
        SkippedChecksum,
        /// recovery believes a commit that was being written when the power failed, unreadable records included
        TornTailTrusted,
        /// after a failed write or sync the log goes on in the same segment
        RetryAfterFailedSync,
        /// the outcomes of a commit that failed are not written again
        OutcomesLostWithCommit,
        /// a dead segment is used again before a durable commit has said that it is dead
        SegmentReusedEarly,
        /// compaction copies a record without the outcomes that came since it was written
        CompactionForgetsOutcome,
        /// recovery does not look for outcomes that stand outside of the record
        ProgressIgnored,
        /// two chunks of a large body are sent in each other's place
        StreamedChunkSwapped,
        /// an owner's final outcome does not reach the log
        SettledDropped,
        /// the sender is not told of a failure if the notification's commit is refused
        BounceLost,
        /// a failed notification begets a notification
        BounceOfBounce,
        /// a 4yz reply counts as a 5yz
        TransientIsPermanent,
        /// a connection lost before the reply to the final dot counts as delivered
        LostReplyIsSuccess,
        /// the limit of connections to a destination is looked at when one too many is open
        LimitCheckedLate,
        /// a permit that is used stays
        PermitNotCounted,
        /// a start takes nothing for begun before it
        RatesForgottenAtStart,
        /// a source that rests for a site goes on sending to it
        RestForgotten,
        /// mail goes from any source, not only those of its pool
        PoolIgnored,
        /// messages that a warm-up counts are begun without being counted
        WarmupUncounted,
        /// a message begins without a permit of its tenant, or campaign
        TenantPermitNotAsked,
        /// octets of messages that were answered count as if they were in flight
        OctetsNotGivenBack,
        /// octets in flight are not limited
        OctetsUncounted,
        /// transactions of a tenant, or campaign, are not limited
        TransactionsUncounted,
        /// what others wait for is not given up
        RecallIgnored,
        /// a job put off is not tried again
        RetryForgotten,
        /// a connection is found by its slot, whoever has it now
        GenerationIgnored,
        /// the id of a DNS answer is not compared
        DnsIdUnchecked,
        /// data that is cut behind a line's end forgets that a line begins: the final dot is missed
        DotOffByOne,
        /// data that is cut within a line takes a dot there for a line's first: a message ends early
        DotInsideLine,
        /// an inbound session has no deadline
        SessionNeverTimesOut,
        /// an inbound session is read and answered, however much of it waits
        WindowIgnored,
        /// the place of a refused recipient in the transaction is taken for its number in the message
        PlaceIsIndex,
        /// a group of which some were put off is tried again as a whole
        GroupRetriedWhole,
        /// a 5yz reply counts as a 4yz
        PermanentIsTransient,
        /// ages are told by the wall clock, set or not
        AgeByWallClock,
        /// behind a piece that the socket took in part, the octets it took are left out of the next one too
        PartialWriteCountedTwice,
        /// an idle connection is kept twenty times too long
        IdleTooLong,
        /// a destination that found no connection free is not told of one
        StarvedForgotten,
        /// a connection that said QUIT counts for its destination for ever
        LeavingNotCountedBack,
        /// our own header does not count into the size of a message
        TraceNotCounted,
        /// no RSET in front of the transaction behind a failed one
        ResetForgotten,
        /// a connection is used on behind 421
        GoesOnAfter421,
        /// MAIL does not say BODY=8BITMIME
        EightBitUnsaid,
        /// the limit of recipients is looked at when it is passed
        OneRecipientTooMany,
        /// the limit of a message's size is announced, and not applied to its data
        SizeUnchecked,
        /// the chunks of a large body that is not completed stay
        StreamNotAborted,
        /// what came in one piece with the end of a chunk, and does not fill the next, is lost
        TailLost,
        /// commands pipelined behind a message are lost
        PipelinedLost,
        /// mail to a shard whose mailbox is full is dropped
        FullMailboxDrops,
        /// a drain does not wait for the last commit
        DrainWithoutCommit,
        /// an interval may be as short as nothing
        JitterFromZero,
        /// mail is given up at half of the age
        ExpiresAtHalf,
        /// mail exchangers are tried without regard to their preference
        PreferenceIgnored,
        /// what DNS said holds for ever
        CacheNeverExpires,
        /// a truncated answer is taken as it is
        TruncatedTaken,
        /// that there is no such name or record is remembered for a day
        NegativeKept,
        /// a failure to find the mail exchangers counts as there being none
        FailureIsNoData,
        /// the stamp of a segment's former life is not compared
        StampIgnored,
        /// recovery does not tell a log of deaths that another log knows
        DeathNotTold,
        /// a large body is taken although a commit with one of its chunks failed
        HoleAccepted,
        /// a commit that failed is not disowned if nothing else is to be written
        RefusedNotDisowned,
        /// what came in plain text behind STARTTLS is read as if it had come in TLS
        InjectedKept,
        /// a listener that requires AUTH takes MAIL without it
        AuthNotRequired,
        /// an account may send as anybody
        SenderNotChecked,
        /// a wrong password is right
        PasswordUnchecked,
        /// nobody is told what DNS does not know
        QuestionForgotten,
        /// a dot that begins a line of a chunk is not doubled
        ChunkDotNotDoubled,
        /// a chunk ends an octet early
        ChunkCountedOneOff,
        /// a message in chunks that is given up keeps its place in the log
        ChunksNotDropped,
        /// a handshake that failed counts for ever
        HandshakeNotCountedBack,
        /// Received does not say that mail came in TLS
        TlsUntold,
        /// mail that requires TLS goes in the clear
        RequireTlsIgnored,
        /// nobody remembers by when mail is to be delivered
        DeadlineForgotten,
        /// what is late is tried on, and sent
        DeadlineUnchecked,
        /// mail that is to be held goes at once
        HoldIgnored,
        /// the next hop is not told of whom the sender wants to hear
        NotifyUnsaid,
        /// nobody says that mail went where nobody reports
        RelayingUntold,
        /// who wants to hear of no failure hears of it
        NotifyIgnored,
        /// a restart forgets what accounts have sent
        QuotaForgotten,
        /// what other shards were leased of a limit counts when they have settled it
        LeaseUncounted,
        /// the transactions of a flight are not separated by RSET
        FlightNotReset,
        /// mail is refused for good by a peer that only does not take flights
        FlightBlamed,
        /// a message goes by BDAT with the dots that only DATA has doubled
        FlightDotsKept,
        /// a tenant's turn costs it nothing: the first one goes on and on
        TurnsAreFree,
        /// a permit that was used at once counts as if it had been used at its end
        PermitUsedAtItsEnd,
        /// a rule that says when a recipient is tried again is not heard
        RetryAfterIgnored,
        /// a rule that has a site rest is not acted upon
        SuspensionForgotten,
        /// that a site rests only the shard knows that read the reply
        SuspensionNotTold,
        /// a rule that has a tenant rest is not acted upon
        TenantRestIgnored,
        /// a rule that lowers limits is not acted upon
        LoweringForgotten,
        /// an attempt to connect beside another is begun whatever the limits say
        BesideUnbounded,
        /// that a proxy cannot be reached counts as if the host could not
        ProxyBlamesHost,
        /// that a host cannot be reached counts as if its proxy could not
        HostBlamesProxy,
        /// what is kept of rests and lower limits is not taken up at the start
        RestsLostAtStart,
        /// lanes share a limit evenly, whosever mail they have
        LanesWeighTheSame,
        /// connections of a source to a site are not limited
        SourceConnectionsUncounted,
        /// octets in flight from a source to a site are not limited
        SourceOctetsUncounted,
        /// a connection from a source is begun without a permit of its rate at the site
        SourceStartNotAsked,
        /// a message is begun from a source without a permit of its rate at the site
        SourcePermitNotAsked,
        /// mail of another pool of sources does not learn that its domain has other hosts
        SiblingsNotTold,
        /// a connection that is to end behind its first message idles if that goes another way
        UnusedStays,
        /// a connection that nobody needs keeps a place that others wait for
        PlacesNotSpared,
        /// a destination asks for others' connections before it knows that there are no more
        AsksTooEarly,
    }

    thread_local! {
        static CURRENT: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        CURRENT.get() == Some(bug)
    }

    /// Plants `bug` on this thread until the guard is dropped.
    ///
    /// # Panics
    /// If one is planted already: two at once would show nothing about either.
    pub(crate) fn plant(bug: Bug) -> Guard {
        assert_eq!(CURRENT.replace(Some(bug)), None, "one bug at a time");
        Guard(PhantomData)
    }

    /// See [`plant`]. Stays on its thread.
    #[must_use]
    pub(crate) struct Guard(PhantomData<*const ()>);

    impl Drop for Guard {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Bug, is_planted, plant};

    #[test]
    fn nothing_is_planted_unless_a_test_says_so() {
        let none = || Bug::ALL.iter().all(|bug| !is_planted(*bug));
        assert!(none());
        for bug in Bug::ALL {
            let guard = plant(*bug);
            let planted: Vec<_> = Bug::ALL.iter().filter(|bug| is_planted(**bug)).collect();
            assert_eq!(planted, [bug], "{}", bug.what());
            assert!(
                std::thread::scope(|scope| scope.spawn(none).join().is_ok_and(|none| none)),
                "other threads are clean"
            );
            drop(guard);
            assert!(none());
        }
    }
}
