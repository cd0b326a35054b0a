//! Text from outside, as error messages quote it.

/// Characters of a quotation at most.
const CHARACTERS_MAX: usize = 200;

/// Returns `text` as one line: control characters escaped, and cut off after 200 characters.
pub fn excerpt(text: &str) -> String {
    let mut escaped = text.chars().flat_map(char::escape_debug);
    let mut excerpt: String = escaped.by_ref().take(CHARACTERS_MAX).collect();
    if escaped.next().is_some() {
        excerpt.push('…');
    }
    excerpt
}
