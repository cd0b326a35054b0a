//! The natural order of names: numbers in them compare as numbers.

use std::cmp::Ordering;

/// Compares dotted names component by component, digits by their number: `features.2` comes before `features.10`.
pub(crate) fn compare(first: &str, second: &str) -> Ordering {
    let mut second_components = second.split('.');
    for component in first.split('.') {
        let Some(other) = second_components.next() else {
            return Ordering::Greater;
        };
        let order = compare_component(component, other);
        if order.is_ne() {
            return order;
        }
    }
    match second_components.next() {
        Some(_) => Ordering::Less,
        // Names that differ in leading zeros alone.
        None => first.cmp(second),
    }
}

fn compare_component(first: &str, second: &str) -> Ordering {
    let (mut first, mut second) = (first, second);
    while !first.is_empty() && !second.is_empty() {
        let (one, first_rest) = first.split_at(run(first));
        let (other, second_rest) = second.split_at(run(second));
        let order = compare_run(one, other);
        if order.is_ne() {
            return order;
        }
        (first, second) = (first_rest, second_rest);
    }
    first.len().cmp(&second.len())
}

/// The length of the digits, or of the text without digits, with which `text` begins.
fn run(text: &str) -> usize {
    let is_number = is_number(text);
    text.find(|c: char| c.is_ascii_digit() != is_number)
        .unwrap_or(text.len())
}

fn is_number(run: &str) -> bool {
    run.starts_with(|first: char| first.is_ascii_digit())
}

fn compare_run(first: &str, second: &str) -> Ordering {
    if !(is_number(first) && is_number(second)) {
        return first.cmp(second);
    }
    let (first, second) = (first.trim_start_matches('0'), second.trim_start_matches('0'));
    first.len().cmp(&second.len()).then_with(|| first.cmp(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_as_numbers() {
        for (first, second) in [
            ("features.2", "features.10"),
            ("conv1_2", "conv2_1"),
            ("conv2_1", "conv10_1"),
            ("classifier.6", "classifier.6.0"),
            ("0.28", "3.0"),
            ("3.0", "4"),
            ("fc1", "fc2"),
            ("fc2", "head"),
            ("a.b", "a-b"),
        ] {
            assert_eq!(compare(first, second), Ordering::Less, "{first} {second}");
            assert_eq!(compare(second, first), Ordering::Greater, "{second} {first}");
        }
        assert_eq!(compare("a.1", "a.1"), Ordering::Equal);
    }
}
