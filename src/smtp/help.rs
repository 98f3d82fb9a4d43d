//! PURE. The replies to HELP (RFC 5321 §4.1.1.8): which commands there are, and how each is written.
//!
//! In: the argument of HELP. Out: a reply, appended. It refuses nothing: an unknown topic gets 504.

/// Verb, syntax, RFC.
const TOPICS: &[(&str, &str, &str)] = &[
    ("EHLO", "EHLO domain | address-literal", "RFC 5321 section 4.1.1.1"),
    ("HELO", "HELO domain", "RFC 5321 section 4.1.1.1"),
    (
        "MAIL",
        "MAIL FROM:<reverse-path> [SIZE=octets] [BODY=7BIT|8BITMIME|BINARYMIME] [SMTPUTF8] [RET=FULL|HDRS] [ENVID=xtext] \
         [REQUIRETLS] [BY=seconds;R|N[T]] [HOLDFOR=seconds|HOLDUNTIL=date-time] [MT-PRIORITY=-9..9] [AUTH=xtext|<>]",
        "RFC 5321 section 4.1.1.2; RFC 1870, 6152, 3030, 6531, 3461, 8689, 2852, 4865, 6710, 4954",
    ),
    (
        "RCPT",
        "RCPT TO:<forward-path> [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=type;xtext]",
        "RFC 5321 section 4.1.1.3; RFC 3461",
    ),
    ("DATA", "DATA", "RFC 5321 section 4.1.1.4"),
    ("BDAT", "BDAT octets [LAST]", "RFC 3030 section 2"),
    ("RSET", "RSET", "RFC 5321 section 4.1.1.5"),
    ("VRFY", "VRFY user-name | mailbox [SMTPUTF8]", "RFC 5321 section 4.1.1.6"),
    ("EXPN", "EXPN list-name [SMTPUTF8]", "RFC 5321 section 4.1.1.7"),
    ("HELP", "HELP [command]", "RFC 5321 section 4.1.1.8"),
    ("NOOP", "NOOP [text]", "RFC 5321 section 4.1.1.9"),
    ("QUIT", "QUIT", "RFC 5321 section 4.1.1.10"),
    ("STARTTLS", "STARTTLS", "RFC 3207"),
    ("AUTH", "AUTH mechanism [initial-response]", "RFC 4954"),
    ("XCLIENT", "XCLIENT attribute=xtext ...", "www.postfix.org/XCLIENT_README.html"),
    ("XFORWARD", "XFORWARD attribute=xtext ...", "www.postfix.org/XFORWARD_README.html"),
];

/// Appends the reply to HELP with this argument.
pub(super) fn reply(argument: &[u8], out: &mut Vec<u8>) {
    let topic = argument.trim_ascii();
    if topic.is_empty() {
        out.extend_from_slice(b"214-2.0.0 Commands (HELP and one of them says how it is written):\r\n214 2.0.0");
        for (verb, ..) in TOPICS {
            out.push(b' ');
            out.extend_from_slice(verb.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        return;
    }
    match TOPICS.iter().find(|(verb, ..)| topic.eq_ignore_ascii_case(verb.as_bytes())) {
        Some((_, syntax, source)) => {
            out.extend_from_slice(format!("214-2.0.0 {syntax}\r\n214 2.0.0 {source}\r\n").as_bytes());
        }
        None => out.extend_from_slice(b"504 5.5.4 No help on that, HELP alone lists the commands\r\n"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_topic_is_a_reply_with_lines_that_fit() {
        for (topic, code) in
            TOPICS.iter().map(|(verb, ..)| (*verb, 214)).chain([("", 214), ("x", 504), (" mail ", 214)])
        {
            let mut out = Vec::new();
            reply(topic.as_bytes(), &mut out);
            let text = String::from_utf8(out.clone()).unwrap();
            assert!(text.lines().all(|line| line.len() + 2 <= 512), "RFC 5321 section 4.5.3.1.5: {text}");
            let mut parser = super::super::reply::ReplyParser::default();
            assert_eq!(parser.feed(&mut &out[..]), Ok(true), "{text}");
            assert_eq!(parser.reply().code, code);
        }
    }
}
