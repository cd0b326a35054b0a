//! Batches equal single pictures, whatever the mix of heads.

use std::sync::{LazyLock, Mutex};

use headswap_image::Prepared;
use headswap_model::{Backend, HeadRows, Outputs, PlacedHead, demo_head_from};
use headswap_spec::{Architecture, PICTURE_BYTES};
use proptest::prelude::*;

use super::{Case, features, open, place, rows as input_rows, torchvision};
use crate::CASES;

/// The split layer and the classes of each head. The last two share all but their last Linear with an earlier one.
const HEADS: [(&str, usize); 9] = [
    ("classifier.6", 1),
    ("classifier.6", 100),
    ("classifier.3", 10),
    ("classifier.0", 2),
    ("features.28", 10),
    ("features.24", 3),
    ("features.0", 10),
    ("classifier.0", 5),
    ("features.24", 7),
];

struct Fixture {
    case: Case,
    network: Box<dyn Backend>,
    heads: Vec<PlacedHead>,
}

static FIXTURES: LazyLock<[Mutex<Fixture>; CASES.len()]> =
    LazyLock::new(|| CASES.map(|case| Mutex::new(Fixture::new(case))));

impl Fixture {
    fn new(case: Case) -> Self {
        let narrow = Architecture::Vgg16Narrow;
        let network = open(narrow, case, 2).0;
        let mut heads = Vec::new();
        for (index, (split, classes)) in HEADS.into_iter().enumerate() {
            let mut parameters = demo_head_from(narrow, split, classes, index as u64);
            if let Some(twin) = index.checked_sub(7).map(|twin| [3, 5][twin]) {
                let mut shared = demo_head_from(narrow, split, 1, twin);
                shared.retain(|name, _| !name.starts_with("classifier.6"));
                parameters.extend(shared);
            }
            heads.push(place(&*network, &parameters));
        }
        Self { case, network, heads }
    }
}

fn picture(seed: u8) -> Prepared {
    let byte = |index| (index * (usize::from(seed) + 31) % 251) as u8;
    super::picture((0..PICTURE_BYTES).map(byte).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn batched_equals_single(rows in prop::collection::vec((any::<u8>(), 0usize..HEADS.len()), 1..12)) {
        for fixture in FIXTURES.iter() {
        let mut fixture = fixture.lock().unwrap();
        let Fixture { network, heads, .. } = &mut *fixture;
        let pictures: Vec<_> = rows.iter().map(|(seed, _)| picture(*seed)).collect();
        let groups: Vec<HeadRows<'_>> = (0..HEADS.len())
            .map(|head| HeadRows {
                head: &heads[head],
                rows: (0..rows.len()).filter(|&row| rows[row].1 == head).collect(),
            })
            .filter(|group| !group.rows.is_empty())
            .collect();
        let torchvision = torchvision();
        let all = features(0..rows.len());
        let batched = network.forward(&input_rows(&pictures, &torchvision), &groups, &all).unwrap();
        prop_assert_eq!(batched.inputs.iter().map(Vec::len).collect::<Vec<_>>(), vec![128; rows.len()]);

        for (group, logits) in groups.iter().zip(&batched.logits) {
            for (position, &row) in group.rows.iter().enumerate() {
                let alone = [HeadRows { head: group.head, rows: vec![0] }];
                let picture = [picture(rows[row].0)];
                let single = network.forward(&input_rows(&picture, &torchvision), &alone, &[]).unwrap();
                let batched = &logits[position * group.head.classes..(position + 1) * group.head.classes];
                let scale = single.logits[0].iter().fold(1e-6f32, |largest, logit| largest.max(logit.abs()));
                for (got, want) in batched.iter().zip(&single.logits[0]) {
                    prop_assert!((got - want).abs() <= 1e-4 * scale, "{} {}", got, want);
                }
            }
        }
        }
    }
}

fn forward(fixture: &mut Fixture, rows: &[usize]) -> Outputs {
    let Fixture { network, heads, .. } = fixture;
    let groups: Vec<HeadRows<'_>> = (0..HEADS.len())
        .map(|head| HeadRows {
            head: &heads[head],
            rows: (0..rows.len()).filter(|&row| rows[row] == head).collect(),
        })
        .filter(|group| !group.rows.is_empty())
        .collect();
    let pictures: Vec<_> = (0..rows.len()).map(|row| picture(row as u8)).collect();
    network
        .forward(&input_rows(&pictures, &torchvision()), &groups, &[])
        .unwrap()
}

/// The 15 steps: 13 convolutions, classifier.0 and classifier.3.
fn passes(fixture: &mut Fixture, rows: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let outputs = forward(fixture, rows);
    let steps = outputs.steps.iter();
    steps.map(|count| (count.passes, count.rows)).unzip()
}

#[test]
fn the_shared_prefix_is_computed_once() {
    for fixture in FIXTURES.iter() {
        let mut fixture = fixture.lock().unwrap();
        let mut passes = |rows: &[usize]| passes(&mut fixture, rows);
        // Heads of the last Linear alone: everything is shared.
        assert_eq!(passes(&[0, 1, 0, 1]), (vec![1; 15], vec![4; 15]));
        // One splits at classifier.3, one at features.28 (step 12): each layer before is passed by all rows at once.
        let (count, rows) = passes(&[0, 2, 4, 1, 2]);
        assert_eq!(count, [[1; 12].as_slice(), &[2, 2, 3]].concat());
        assert_eq!(rows, vec![5; 15]);
        // Two heads with the same overrides stay together to the end; a full override shares nothing.
        assert_eq!(passes(&[5, 8]).0, vec![1; 15]);
        assert_eq!(passes(&[5, 8, 6]).0, vec![2; 15]);
    }
}

#[test]
fn a_row_asked_of_many_heads_passes_the_backbone_once() {
    for fixture in FIXTURES.iter() {
        let mut fixture = fixture.lock().unwrap();
        let Fixture { network, heads, .. } = &mut *fixture;
        let groups: Vec<HeadRows<'_>> = heads[..2].iter().map(|head| HeadRows { head, rows: vec![0] }).collect();
        let outputs = network
            .forward(&input_rows(&[picture(0)], &torchvision()), &groups, &features([0]))
            .unwrap();
        assert!(outputs.steps.iter().all(|count| (count.passes, count.rows) == (1, 1)));
        assert_eq!((outputs.logits[1].len(), outputs.inputs[0].len()), (100, 128));
    }
}

/// To the byte, unless the backend packs whole blocks of channels, which narrow layers do not fill (`golden.rs` has the
/// wide ones).
#[test]
fn a_head_takes_the_bytes_of_what_it_overrides() {
    for fixture in FIXTURES.iter() {
        let fixture = fixture.lock().unwrap();
        if fixture.case.packs_blocks {
            continue;
        }
        for (&(split, classes), head) in HEADS.iter().zip(&fixture.heads) {
            let parameters = demo_head_from(Architecture::Vgg16Narrow, split, classes, 0);
            let bytes: usize = parameters.values().map(|tensor| tensor.bytes()).sum();
            assert_eq!(head.device_bytes, bytes, "{split}");
        }
    }
}

/// The native backend gives the same bits in any batch, so that features may be cached.
#[test]
fn repeatable_results_are_the_same_in_any_batch() {
    for fixture in FIXTURES.iter() {
        let mut fixture = fixture.lock().unwrap();
        if !fixture.case.repeatable {
            continue;
        }
        let together = forward(&mut fixture, &[0, 2, 4, 5, 3, 1, 6]);
        let Fixture { network, heads, .. } = &mut *fixture;
        for (group, (row, head)) in [(0, 0), (5, 1), (1, 2), (4, 3), (2, 4), (3, 5), (6, 6)]
            .into_iter()
            .enumerate()
        {
            let groups = [HeadRows {
                head: &heads[head],
                rows: vec![0],
            }];
            let alone = network
                .forward(&input_rows(&[picture(row)], &torchvision()), &groups, &[])
                .unwrap();
            assert_eq!(alone.logits[0], together.logits[group], "{}", HEADS[head].0);
        }
    }
}
