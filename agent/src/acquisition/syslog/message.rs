//! A syslog message (RFC 3164 or RFC 5424) as one line of a log.
//!
//! The line is written anew as a syslog daemon would write it into a file, `Nov 2 15:04:05 host program[7]: text`, so that the
//! parsers see the same whichever way a message came. One message is one line: a line break inside it becomes a blank.

use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::tail::split::text;

/// The message is not what its sender promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin with `<`, a number and `>`.
    #[error("it does not begin with a priority like `<13>`")]
    Priority,
    /// Neither form fits.
    #[error("behind the priority it is neither RFC 3164 nor RFC 5424")]
    Form,
}

/// A line, and whether its end was cut.
pub type Told = (Box<str>, bool);

/// What `bytes` say, as a line. `bare` takes the priority off and leaves the rest as it is. A message without a time gets
/// `now`. Times with a zone are told in UTC, since the line has no place for one.
pub fn line(bytes: &[u8], bare: bool, now: Timestamp) -> Result<Told, Malformed> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let (message, cut) = text(bytes);
    let message: Box<str> = if memchr::memchr2(b'\n', b'\r', message.as_bytes()).is_some() {
        message.replace(['\n', '\r'], " ").into()
    } else {
        message
    };
    let rest = behind_priority(&message)?;
    if bare {
        return Ok((rest.into(), cut));
    }
    let parts = Parts::rfc3164(rest).or_else(|| Parts::rfc5424(rest)).ok_or(Malformed::Form)?;
    Ok((parts.line(now), cut))
}

fn behind_priority(message: &str) -> Result<&str, Malformed> {
    let (number, rest) = message.strip_prefix('<').and_then(|rest| rest.split_once('>')).ok_or(Malformed::Priority)?;
    let fits = (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    if fits { Ok(rest) } else { Err(Malformed::Priority) }
}

/// When a message says it was written.
#[derive(Debug, PartialEq)]
enum When<'a> {
    /// Month, day and time, as in the line.
    Told { month: &'a str, day: &'a str, time: &'a str },
    /// A moment.
    Moment(Timestamp),
    /// It does not say.
    Now,
}

/// What a line is made of.
#[derive(Debug, PartialEq)]
struct Parts<'a> {
    when: When<'a>,
    host: Option<&'a str>,
    program: &'a str,
    process: Option<&'a str>,
    text: &'a str,
}

impl<'a> Parts<'a> {
    fn rfc3164(rest: &'a str) -> Option<Self> {
        let (when, rest) = told(rest).or_else(|| {
            let (word, rest) = rest.split_once(' ')?;
            Some((When::Moment(moment(word)?), rest))
        })?;
        let (first, behind) = rest.split_once(' ')?;
        // Some programs leave the host out; then the program comes first.
        let lacks_host = first.parse::<IpAddr>().is_err() && (first.ends_with(':') || first.contains('['));
        let (host, rest) = if lacks_host { (None, rest) } else { (Some(first), behind) };
        let rest = rest.trim_start_matches(' ');
        let end = rest.find(|c: char| !c.is_ascii_graphic() || matches!(c, '[' | ']' | ':')).unwrap_or(rest.len());
        let (program, rest) = rest.split_at(end);
        let (process, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((process, rest)) if is_number(process) => (Some(process), rest),
            _ => (None, rest),
        };
        let text = rest.strip_prefix(':').unwrap_or(rest).trim_start_matches(' ');
        let whole = host != Some("") && !program.is_empty() && program.len() <= 255 && !text.is_empty();
        whole.then_some(Self { when, host, program, process, text })
    }

    fn rfc5424(rest: &'a str) -> Option<Self> {
        let rest = rest.strip_prefix("1 ")?;
        let (time, rest) = rest.split_once(' ')?;
        let (host, rest) = rest.split_once(' ')?;
        let (program, rest) = rest.split_once(' ')?;
        let (process, rest) = rest.split_once(' ')?;
        let (id, rest) = rest.split_once(' ')?;
        let fits = |word: &str, longest: usize| {
            !word.is_empty() && word.len() <= longest && word.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !(fits(host, 255) && fits(program, 48) && fits(process, 128) && fits(id, 32)) {
            return None;
        }
        let when = if time == "-" { When::Now } else { When::Moment(moment(time)?) };
        let given = |word: &'a str| (word != "-").then_some(word);
        let text = behind_data(rest)?;
        // Some senders put a blank before every message.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_start_matches(' ');
        Some(Self { when, host: given(host), program, process: given(process), text })
    }

    fn line(&self, now: Timestamp) -> Box<str> {
        let mut line = String::with_capacity(self.text.len() + 64);
        let moment = match self.when {
            When::Told { month, day, time } => {
                line.extend([month, " ", day, " ", time]);
                None
            }
            When::Moment(moment) => Some(moment),
            When::Now => Some(now),
        };
        if let Some(moment) = moment {
            // Writing to a String cannot fail, here and below.
            let _ = write!(line, "{}", moment.to_zoned(TimeZone::UTC).strftime("%b %-d %H:%M:%S"));
        }
        let _ = write!(line, " {} {}", self.host.unwrap_or("unknownhost"), self.program);
        if let Some(process) = self.process {
            let _ = write!(line, "[{process}]");
        }
        line.push_str(": ");
        line.push_str(self.text);
        line.into()
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A moment with a zone.
fn moment(word: &str) -> Option<Timestamp> {
    (word.len() <= 40 && word.as_bytes().get(10) == Some(&b'T')).then(|| word.parse().ok()).flatten()
}

/// `Nov  2 15:04:05` with an optional year, and what stands behind it.
fn told(rest: &str) -> Option<(When<'_>, &str)> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = rest.get(..3).filter(|month| MONTHS.contains(month))?;
    let behind = rest.get(3..)?.strip_prefix(' ')?;
    let (day, behind) = behind.strip_prefix(' ').unwrap_or(behind).split_once(' ')?;
    let day = day.strip_prefix('0').unwrap_or(day);
    let day_fits = is_number(day) && day.len() <= 2 && (1..=31).contains(&day.parse::<u8>().ok()?);
    let (time, behind) = behind.split_once(' ')?;
    let digit = |at: usize| time.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
    let colon = |at: usize| time.as_bytes().get(at) == Some(&b':');
    let time_fits = time.len() == 8 && [0, 1, 3, 4, 6, 7].into_iter().all(digit) && [2, 5].into_iter().all(colon);
    let behind = match behind.split_once(' ') {
        Some((year, rest)) if year.len() == 4 && is_number(year) => rest,
        _ => behind,
    };
    (day_fits && time_fits).then_some((When::Told { month, day, time }, behind))
}

/// What stands behind the structured data.
fn behind_data(rest: &str) -> Option<&str> {
    if let Some(behind) = rest.strip_prefix('-') {
        return if behind.is_empty() { Some("") } else { behind.strip_prefix(' ') };
    }
    let mut rest = rest;
    let mut some = false;
    while let Some(inside) = rest.strip_prefix('[') {
        let (mut quoted, mut escaped) = (false, false);
        let end = inside.bytes().position(|byte| {
            let end = byte == b']' && !quoted;
            quoted ^= byte == b'"' && !escaped;
            escaped = byte == b'\\' && quoted && !escaped;
            end
        })?;
        rest = inside.get(end + 1..)?;
        some = true;
    }
    match rest.strip_prefix(' ') {
        _ if !some => None,
        Some(behind) => Some(behind),
        None => rest.is_empty().then_some(""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told_as(message: &str) -> String {
        let now: Timestamp = "2026-03-05T04:05:06Z".parse().expect("a time");
        match line(message.as_bytes(), false, now) {
            Ok((line, _)) => line.into(),
            Err(error) => format!("refused: {error}"),
        }
    }

    #[test]
    fn messages_become_the_lines_of_a_syslog_file() {
        // (message, line)
        let cases = [
            ("<34>Oct 11 22:14:15 mymachine su: 'su root' failed", "Oct 11 22:14:15 mymachine su: 'su root' failed"),
            ("<34>Oct  1 22:14:15 h su[12]: x\n", "Oct 1 22:14:15 h su[12]: x"),
            ("<34>Oct 01 22:14:15 2026 h su[12]: x", "Oct 1 22:14:15 h su[12]: x"),
            ("<13>Feb  5 17:32:18 10.0.0.99 my-app/part.x[7]: Use", "Feb 5 17:32:18 10.0.0.99 my-app/part.x[7]: Use"),
            ("<13>Feb  5 17:32:18 h tag text", "Feb 5 17:32:18 h tag: text"),
            ("<13>Feb  5 17:32:18 2001:db8::1 tag: text", "Feb 5 17:32:18 2001:db8::1 tag: text"),
            ("<13>Feb  5 17:32:18 sshd[4]: text", "Feb 5 17:32:18 unknownhost sshd[4]: text"),
            ("<13>Feb  5 17:32:18 cron: text", "Feb 5 17:32:18 unknownhost cron: text"),
            ("<13>2026-11-22T10:00:00+02:00 h sshd[4]: text", "Nov 22 08:00:00 h sshd[4]: text"),
            ("<13>2026-11-22T10:00:00.123456Z h sshd[4]: text", "Nov 22 10:00:00 h sshd[4]: text"),
            (
                "<34>1 2003-10-11T22:14:15.003Z m.example.com su - ID47 - \u{feff}x",
                "Oct 11 22:14:15 m.example.com su: x",
            ),
            ("<165>1 2003-08-24T05:14:15.000003-07:00 h app 8710 - - y", "Aug 24 12:14:15 h app[8710]: y"),
            ("<165>1 - - app - - -  y", "Mar 5 04:05:06 unknownhost app: y"),
            (
                r#"<165>1 - h app 7 ID47 [a@1 i="3" s="q\"]\\"][b@2 c="]"] text [not data]"#,
                "Mar 5 04:05:06 h app[7]: text [not data]",
            ),
            ("<165>1 - h app - - -", "Mar 5 04:05:06 h app: "),
            (
                "<13>Feb  5 17:32:18 h a: two\nFeb  5 17:32:18 h sshd[1]: lines",
                "Feb 5 17:32:18 h a: two Feb  5 17:32:18 h sshd[1]: lines",
            ),
            ("Feb  5 17:32:18 h a: text", "refused: it does not begin with a priority like `<13>`"),
            ("<>Feb  5 17:32:18 h a: text", "refused: it does not begin with a priority like `<13>`"),
            ("<1234>Feb  5 17:32:18 h a: text", "refused: it does not begin with a priority like `<13>`"),
            ("<13>no time at all", "refused: behind the priority it is neither RFC 3164 nor RFC 5424"),
            ("<13>Feb 32 17:32:18 h a: text", "refused: behind the priority it is neither RFC 3164 nor RFC 5424"),
            ("<13>Feb  5 17:32:18 h a: ", "refused: behind the priority it is neither RFC 3164 nor RFC 5424"),
            (
                "<13>1 - h app 7 ID47 [a@1 i=\"3\" text",
                "refused: behind the priority it is neither RFC 3164 nor RFC 5424",
            ),
            ("<13>2 - h app 7 ID47 - text", "refused: behind the priority it is neither RFC 3164 nor RFC 5424"),
        ];
        for (message, expected) in cases {
            assert_eq!(told_as(message), expected, "{message:?}");
        }
        let app = "x".repeat(49);
        assert!(told_as(&format!("<13>1 - h {app} 7 - - text")).starts_with("refused"));
    }

    #[test]
    fn bare_messages_only_lose_their_priority() {
        let told = |bytes: &[u8]| line(bytes, true, Timestamp::UNIX_EPOCH).map(|(line, _)| line.into_string());
        assert_eq!(told(b"<13>%ASA-4: deny\r\n").as_deref(), Ok("%ASA-4: deny"));
        assert_eq!(told(b"<13>\xff").as_deref(), Ok("\u{fffd}"));
        assert_eq!(told(b"<x>text"), Err(Malformed::Priority));
        assert_eq!(told(b"<1"), Err(Malformed::Priority));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn whatever_comes_is_one_line_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), form in 0..4usize) {
            let heads: [&[u8]; 4] = [b"", b"<13>", b"<13>Feb  5 17:32:18 ", b"<13>1 - h a 7 - "];
            let message = [heads[form], &bytes].concat();
            for bare in [false, true] {
                if let Ok((line, _)) = line(&message, bare, Timestamp::UNIX_EPOCH) {
                    prop_assert!(!line.contains(['\n', '\r']));
                }
            }
        }
    }
}
