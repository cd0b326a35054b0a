//! Recognises the bytes of a picture written as text: base64, numbers, escapes.

use super::text::{mentions, starts};
use super::{Foreign, PIXELS, contains, kind};

pub(super) const DECODE: &str = "decode it and send the bytes";
pub(super) const NOT_PRINTED: &str = "send the bytes themselves, not their printed form";

/// The printed forms of the first bytes of a JPEG or PNG file, in lower case.
const ESCAPES: &[(&[u8], &str)] = &[
    (b"\\xff\\xd8\\xff", "a JPEG file"),
    (b"\\377\\330\\377", "a JPEG file"),
    (b"\\u00ff\\u00d8\\u00ff", "a JPEG file"),
    (b"%ff%d8%ff", "a JPEG file"),
    (b"=ff=d8=ff", "a JPEG file"),
    (b"\\x89png", "a PNG file"),
    (b"\\211png", "a PNG file"),
    (b"\\u0089png", "a PNG file"),
    (b"%89png", "a PNG file"),
    (b"=89png", "a PNG file"),
];

/// Names text that is a file's bytes as base64, hexadecimal or decimal numbers, or escapes.
pub(super) fn name(text: &[u8]) -> Option<Foreign> {
    if starts(text, b"data:") {
        let comma = text.iter().take(256).position(|byte| *byte == b',');
        let start = comma.and_then(|comma| base64_kind(&text[comma + 1..]));
        return Some(Foreign::new("a data: URI", "decode what follows its comma and send the bytes").of(start));
    }
    if let Some((_, what)) = ESCAPES
        .iter()
        .find(|(escape, _)| mentions(&text[..text.len().min(64)], escape))
    {
        return Some(Foreign::new("the escaped or printed form", NOT_PRINTED).of(Some(what)));
    }
    let quoted = text.strip_prefix(b"b").unwrap_or(text);
    if let [quote @ (b'\'' | b'"'), rest @ ..] = quoted {
        if starts(rest, b"data:") {
            return name(rest);
        }
        let end = rest.iter().rposition(|byte| byte == quote).unwrap_or(rest.len());
        if text[0] == b'b' && contains(rest, b"\\x") {
            return Some(Foreign::new("the printed form of Python bytes", NOT_PRINTED));
        }
        return base64(&rest[..end]);
    }
    numbers(text).or_else(|| base64(text))
}

fn base64(text: &[u8]) -> Option<Foreign> {
    if !text
        .iter()
        .all(|byte| sextet(*byte).is_some() || matches!(byte, b'=' | b'\r' | b'\n'))
    {
        return None;
    }
    let start = base64_kind(text);
    let advice = if start == Some("base64 text") {
        "decode it twice and send the bytes"
    } else {
        DECODE
    };
    // If the beginning is unknown: a long word of letters of both cases and digits.
    let long = text.len() >= 40
        && text.iter().any(u8::is_ascii_uppercase)
        && text.iter().any(u8::is_ascii_lowercase)
        && text.iter().any(u8::is_ascii_digit)
        && !text.contains(&b'_');
    (start.is_some() || long).then_some(Foreign::new("base64 text", advice).of(start))
}

/// Returns the kind of file whose beginning the base64 text encodes.
fn base64_kind(text: &[u8]) -> Option<&'static str> {
    let mut outer = [0; 96];
    let start = decoded(text, &mut outer);
    kind(start).or_else(|| kind(decoded(start, &mut [0; 72])).map(|_| "base64 text"))
}

/// Decodes base64 text into `bytes` until they are full or the text ends. Returns the decoded part.
fn decoded<'a>(text: &[u8], bytes: &'a mut [u8]) -> &'a [u8] {
    let (mut bits, mut held, mut length) = (0_u32, 0, 0);
    for sextet in text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map_while(|byte| sextet(*byte))
    {
        bits = bits << 6 | u32::from(sextet);
        held += 6;
        if held >= 8 {
            let Some(byte) = bytes.get_mut(length) else { break };
            held -= 8;
            *byte = (bits >> held) as u8;
            length += 1;
        }
    }
    &bytes[..length]
}

/// Returns the value of a character of base64 or base64url.
fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// Names bytes written as hexadecimal or decimal numbers.
fn numbers(text: &[u8]) -> Option<Foreign> {
    if let Some(dump) = text.get(8..18)
        && text[..7].iter().all(u8::is_ascii_hexdigit)
        && (dump.starts_with(b": ")
            || text[7..].starts_with(b" ") && dump[0].is_ascii_hexdigit()
            || dump.starts_with(b"  "))
    {
        let digits = if dump.starts_with(b": ") { 10.. } else { 8.. };
        let what = hexadecimal(&text[digits]);
        if what.is_some() {
            return Some(Foreign::new("a hex dump", DECODE).of(what));
        }
    }
    // Only the content of a list's brackets counts: `array('B', [255, 216, 255])`, `char a[] = {0xff, 0xd8}`.
    let start = &text[..text.len().min(64)];
    let open = memchr::memchr(b'{', start).or(memchr::memchr(b'[', start));
    let list = open.map_or(text, |open| &text[open..]);
    if let Some(what) = hexadecimal(text).or_else(|| hexadecimal(list)) {
        return Some(Foreign::new("hexadecimal text", DECODE).of(Some(what)));
    }
    if let Some(what) = decimal(list) {
        return Some(Foreign::new("a list of the numbers", "send the bytes themselves").of(Some(what)));
    }
    let digits = text.iter().filter(|byte| byte.is_ascii_digit()).count();
    if text.len() >= 32 && text.iter().all(u8::is_ascii_hexdigit) {
        Some(Foreign::new("hexadecimal text", DECODE))
    } else if digits >= 8
        && text
            .iter()
            .all(|byte| byte.is_ascii_digit() || b" \t\r\n,;.+-eE[](){}".contains(byte))
    {
        Some(Foreign::new("numbers as text", PIXELS))
    } else {
        None
    }
}

/// Returns the kind of file whose first bytes are the hexadecimal digits in `text`, with usual separators between them.
fn hexadecimal(text: &[u8]) -> Option<&'static str> {
    let (mut bytes, mut length, mut rest) = ([0; 32], 0, text);
    while length < bytes.len() {
        rest = match rest {
            [b'0' | b'\\', b'x' | b'X', rest @ ..] | [b'x' | b'X', b'\'', rest @ ..] => rest,
            [
                b' ' | b',' | b':' | b'-' | b'\n' | b'\r' | b'[' | b'{' | b'(' | b'"' | b'\'',
                rest @ ..,
            ] => rest,
            [high, low, rest @ ..] => {
                let digits = [*high, *low].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { break };
                bytes[length] = (high << 4 | low) as u8;
                length += 1;
                rest
            }
            _ => break,
        };
    }
    if length >= 4 { kind(&bytes[..length]) } else { None }
}

/// Returns the kind of file whose first bytes are the decimal numbers in `text`.
fn decimal(text: &[u8]) -> Option<&'static str> {
    let mut bytes = [0; 32];
    let mut length = 0;
    let numbers = text
        .split(|byte| !byte.is_ascii_digit() && *byte != b'.')
        .filter(|number| !number.is_empty());
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        let Some(value) = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) else {
            break;
        };
        *byte = value;
        length += 1;
    }
    if length >= 4 { kind(&bytes[..length]) } else { None }
}
