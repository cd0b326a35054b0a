//! What holds for any bytes read as a head spec: no panic, bounded memory, one form.

use headswap_spec::HeadSpec;

use crate::allocator::measure;

/// Limit of the memory beyond the text, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads the bytes as a spec's JSON. Returns true if they are one.
pub fn check_spec(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return false;
    };
    let (peak, read) = measure(|| HeadSpec::from_json(json));
    assert!(peak <= BYTES_MAX + json.len(), "{} bytes took {peak}", json.len());
    match read {
        Ok(spec) => {
            let written = spec.to_json();
            let again = HeadSpec::from_json(&written);
            assert_eq!(again.as_ref(), Ok(&spec));
            assert_eq!(again.map(|spec| spec.to_json()), Ok(written));
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.len() < 2000 && !message.contains(char::is_control),
                "{message:?}"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_read() {
        let mut seeds = 0;
        for entry in std::fs::read_dir("../tests/fixtures/specs").unwrap() {
            let path = entry.unwrap().path();
            assert!(check_spec(&std::fs::read(&path).unwrap()), "{}", path.display());
            seeds += 1;
        }
        assert!(seeds >= 3, "{seeds}");
    }

    #[test]
    fn as_many_labels_as_fit_stay_within_the_limit() {
        let labels = vec![r#""""#; 2_000_000].join(",");
        let json = format!(r#"{{"preprocessing": {{"preset": "unit"}}, "output": "linear", "labels": [{labels}]}}"#);
        assert!(!check_spec(json.as_bytes()));
    }
}
