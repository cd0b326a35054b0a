//! Names of heads.

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
        let valid =
            text.len() <= Self::BYTES_MAX && is_alphanumeric(text.as_bytes()[0]) && text.bytes().all(is_allowed);
        if valid {
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

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_allowed(byte: u8) -> bool {
    is_alphanumeric(byte) || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for accepted in ["", "cats-2.v_1", &"a".repeat(63)] {
            assert!(HeadName::parse(accepted).is_ok(), "{accepted:?}");
        }
        let too_long = "a".repeat(64);
        for refused in [&too_long, ".", "..", "../x", "a/b", "A", "-a", "_a", "a b", "é", "a\0"] {
            assert!(HeadName::parse(refused).is_err(), "{refused:?}");
        }
        assert_eq!(HeadName::parse("").unwrap().as_str(), HeadName::DEFAULT);
    }

    #[test]
    fn the_error_message_is_one_short_line() {
        let message = HeadName::parse(&"A\n\u{1b}".repeat(10_000)).unwrap_err().to_string();
        assert!(message.len() < 400 && !message.contains(char::is_control), "{message}");
    }
}
