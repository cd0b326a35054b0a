//! A head's name.

use std::fmt;
use std::sync::Arc;

use headswap_checkpoint::excerpt;

use super::error::HeadError;

/// 1 to 63 lower-case letters, digits, `.`, `_` and `-`, beginning with a letter or digit: safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeadName(Arc<str>);

impl HeadName {
    /// The name that an empty one stands for.
    pub const DEFAULT: &'static str = "default";
    const BYTES_MAX: usize = 63;

    /// Checks a name; an empty one is [`HeadName::DEFAULT`].
    ///
    /// # Errors
    /// [`HeadError::Name`].
    pub fn parse(text: &str) -> Result<Self, HeadError> {
        if text.is_empty() {
            return Ok(Self(Self::DEFAULT.into()));
        }
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let allowed = |byte: u8| alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-');
        let fits = text.len() <= Self::BYTES_MAX && alphanumeric(text.as_bytes()[0]) && text.bytes().all(allowed);
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(HeadError::Name { name: excerpt(text) })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        let check = |text: &str, accepted: bool| assert_eq!(HeadName::parse(text).is_ok(), accepted, "{text:?}");
        check("", true);
        check("cats-2.v_1", true);
        check(&"a".repeat(63), true);
        check(&"a".repeat(64), false);
        for refused in [".", "..", "../x", "a/b", "A", "-a", "_a", "a b", "é", "a\0"] {
            check(refused, false);
        }
        assert_eq!(HeadName::parse("").unwrap().as_str(), HeadName::DEFAULT);
    }

    #[test]
    fn a_refusal_is_one_short_line() {
        let message = HeadName::parse(&"A\n\u{1b}".repeat(10_000)).unwrap_err().to_string();
        assert!(message.len() < 400 && !message.contains(char::is_control), "{message}");
    }
}
