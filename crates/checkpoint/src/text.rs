//! Quotes untrusted text in error messages.

/// Limit of the characters that are quoted.
const CHARACTERS_MAX: usize = 200;

/// Returns `text` as one line, with control characters escaped, cut off after 200 characters. An excerpt of an excerpt is the
/// same: quotes and backslashes are left alone.
pub fn excerpt(text: &str) -> String {
    let mut escaped = text.chars().flat_map(|char| {
        let is_plain = matches!(char, '\'' | '"' | '\\');
        let plain = is_plain.then_some(char);
        plain
            .into_iter()
            .chain((!is_plain).then(|| char.escape_debug()).into_iter().flatten())
    });
    let mut excerpt: String = escaped.by_ref().take(CHARACTERS_MAX).collect();
    if escaped.next().is_some() {
        excerpt.push('…');
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_line_and_its_own_excerpt() {
        for (text, expected) in [
            ("PyTorch's \"default\"", "PyTorch's \"default\""),
            ("a\nb.\u{1b}[31m", "a\\nb.\\u{1b}[31m"),
            ("C:\\weights", "C:\\weights"),
        ] {
            assert_eq!(excerpt(text), expected);
            assert_eq!(excerpt(&excerpt(text)), expected);
        }
        assert_eq!(excerpt(&"x".repeat(300)), format!("{}…", "x".repeat(200)));
    }
}
