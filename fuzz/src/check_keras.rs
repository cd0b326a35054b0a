//! What holds for any configuration of a Keras model.

use crate::check::check;
use crate::container::keras_archive;

/// The weights of every configuration.
const WEIGHTS: &[u8] = include_bytes!("../../tests/fixtures/keras/pooled.weights.h5");

/// Reads the bytes as the configuration of a `.keras` archive, as [`check`] does. Returns true if it is one.
pub fn check_keras(config: &[u8]) -> bool {
    check(&keras_archive(config, WEIGHTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_read() {
        for entry in std::fs::read_dir("../tests/fixtures/keras").unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "h5" || extension == "keras")
            {
                assert!(check(&std::fs::read(&path).unwrap()), "{}", path.display());
            }
        }
    }

    #[test]
    fn long_configurations_stay_within_the_limit() {
        for part in [
            "{\"\":0},",
            "[[]],",
            "0,",
            "{\"class_name\":\"Sequential\",\"config\":[]},",
        ] {
            for bytes in [100_000, 131_000, 300_000] {
                let layers = part.repeat(bytes / part.len());
                let config = format!(
                    "{{\"class_name\":\"Sequential\",\"config\":[{}]}}",
                    layers.trim_end_matches(',')
                );
                check_keras(config.as_bytes());
            }
        }
    }
}
