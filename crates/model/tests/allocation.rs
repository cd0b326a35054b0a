//! Our own forward pass asks for no memory once it has seen some batches like the present one, but for what it hands out.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../winograd/tests/common/counting.rs"]
mod counting;

use counting::counted;
use headswap_image::Prepared;
use headswap_model::{
    Backbone, Backend, HeadRows, InputRow, PlacedHead, Precision, WantedInput, WeightsSource, demo_head_from,
    native_backend,
};
use headswap_spec::{Architecture, CompleteSpec, HeadInput, PICTURE_BYTES, Preset};

/// The list of the heads, which borrows from the batch, so cannot be kept.
const LIST: usize = 1;

/// Where each head leaves the backbone: after all steps, before the first one, among the convolutions, at Linears.
const SPLITS: [&str; 6] = [
    "classifier.6",
    "classifier.6",
    "classifier.3",
    "classifier.0",
    "features.24",
    "features.0",
];

fn fixture(precision: Precision) -> (Box<dyn Backend>, Vec<PlacedHead>) {
    let narrow = Architecture::Vgg16Narrow;
    let mut backbone = Backbone::load(&WeightsSource::Demo, narrow).unwrap();
    backbone.take_last_linear();
    let network = native_backend(vec![backbone], precision, winograd::Engine::new(2)).unwrap();
    let placer = network.placer();
    // As many classes as take more than one thread.
    let spec = CompleteSpec::plain(Preset::Torchvision.preprocessing(), 5000);
    let mut heads = Vec::new();
    for (seed, split) in SPLITS.iter().enumerate() {
        let parameters = demo_head_from(narrow, split, 5000, seed as u64);
        heads.push(placer.place(&parameters, &spec).unwrap());
    }
    (network, heads)
}

#[test]
fn a_steady_batch_allocates_what_it_hands_out() {
    let picture = Prepared::Bytes {
        size: [224, 224],
        values: vec![100; PICTURE_BYTES].into(),
    };
    let row = InputRow {
        picture: &picture,
        preprocessing: &Preset::Torchvision.preprocessing(),
    };
    let wanted = [0, 3].map(|row| WantedInput {
        row,
        backbone: 0,
        input: HeadInput::Features,
    });
    for precision in [Precision::F32, Precision::Int16] {
        let (mut network, heads) = fixture(precision);
        // Each head has two of the rows, and shares one with the next.
        let groups: Vec<HeadRows<'_>> = heads
            .iter()
            .enumerate()
            .map(|(row, head)| HeadRows {
                head,
                rows: vec![row, row + 1],
            })
            .collect();
        let batch = vec![row; heads.len() + 1];
        // The logits of each head and their list, the features of two rows and their list, the counts of steps.
        let handed_out = heads.len() + 5;
        let mut forward = || {
            let (outputs, count) = counted(|| network.forward(&batch, &groups, &wanted).unwrap());
            assert_eq!(outputs.steps.iter().map(|step| step.passes).max(), Some(5));
            count
        };
        assert!(forward() > LIST + handed_out, "the first batch sizes the buffers");
        // Three buffers take turns, each batch anew, until all are as large as the largest.
        for _ in 0..4 {
            forward();
        }
        assert_eq!(forward(), LIST + handed_out, "{precision:?}");

        let features = vec![0.5; 128];
        let rows = vec![&features[..]; heads.len() + 1];
        let mut logits = || {
            let (logits, count) = counted(|| network.logits(&rows, &groups[..2]).unwrap());
            assert_eq!(logits.len(), 2);
            count
        };
        logits();
        assert_eq!(logits(), LIST + 3);
    }
}
