//! Quotes untrusted text in error messages.

/// Limit of the characters that are quoted.
const CHARACTERS_MAX: usize = 200;

/// Returns `text` as one line, with control characters escaped, cut off after 200 characters.
pub fn excerpt(text: &str) -> String {
    let mut escaped = text.chars().flat_map(char::escape_debug);
    let mut excerpt: String = escaped.by_ref().take(CHARACTERS_MAX).collect();
    if escaped.next().is_some() {
        excerpt.push('…');
    }
    excerpt
}
