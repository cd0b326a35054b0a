//! The names of ImageNet's 1000 classes.

/// One on each line, in the order of torchvision's `VGG16_Weights.IMAGENET1K_V1.meta["categories"]`.
const LABELS: &str = include_str!("imagenet_labels.txt");

/// Returns the names of ImageNet's classes, in order.
pub fn imagenet_labels() -> Vec<String> {
    LABELS.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_thousand() {
        let labels = imagenet_labels();
        assert_eq!(labels.len(), 1000);
        assert_eq!((labels[0].as_str(), labels[281].as_str()), ("tench", "tabby"));
    }
}
