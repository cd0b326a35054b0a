//! The forward pass: batches equal single pictures, whatever the mix of heads.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::{Arc, Mutex, OnceLock};

use headswap::image::Pixels;
use headswap::model::{
    Architecture, Backbone, DeviceChoice, HeadRows, Network, PlacedHead, Precision, TorchSettings, WeightsSource,
    demo_head, torch_network,
};
use proptest::prelude::*;

const CLASSES: [usize; 4] = [1, 2, 10, 100];

struct Fixture {
    network: Box<dyn Network>,
    heads: Vec<PlacedHead>,
}

fn fixture() -> &'static Mutex<Fixture> {
    static FIXTURE: OnceLock<Mutex<Fixture>> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let narrow = Architecture::Vgg16Narrow;
        let mut backbone = Backbone::load(&WeightsSource::Demo, narrow).unwrap();
        backbone.take_last_linear();
        let settings = TorchSettings {
            device: DeviceChoice::Cpu,
            precision: Precision::F32,
            threads: 1,
        };
        let network = torch_network(backbone, settings).unwrap();
        let placer = network.placer();
        let place = |&classes: &usize| {
            placer
                .place(Arc::new(demo_head(narrow, classes, classes as u64)))
                .unwrap()
        };
        let heads = CLASSES.iter().map(place).collect();
        Mutex::new(Fixture { network, heads })
    })
}

fn picture(seed: u8) -> Vec<u8> {
    (0..Pixels::BYTES)
        .map(|index| (index * (usize::from(seed) + 31) % 251) as u8)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn batched_equals_single(rows in prop::collection::vec((any::<u8>(), 0usize..CLASSES.len()), 1..12)) {
        let mut fixture = fixture().lock().unwrap();
        let Fixture { network, heads } = &mut *fixture;
        let pixels: Vec<u8> = rows.iter().flat_map(|(seed, _)| picture(*seed)).collect();
        let groups: Vec<HeadRows<'_>> = (0..CLASSES.len())
            .map(|head| HeadRows {
                head: &heads[head],
                rows: (0..rows.len()).filter(|&row| rows[row].1 == head).collect(),
            })
            .filter(|group| !group.rows.is_empty())
            .collect();
        let batched = network.forward(&pixels, rows.len(), &groups, true).unwrap();
        let features = batched.features.unwrap();
        prop_assert_eq!(features.len(), rows.len() * 128);

        for (group, logits) in groups.iter().zip(&batched.logits) {
            for (position, &row) in group.rows.iter().enumerate() {
                let alone = [HeadRows { head: group.head, rows: vec![0] }];
                let single = network.forward(&picture(rows[row].0), 1, &alone, false).unwrap();
                let batched = &logits[position * group.head.classes..(position + 1) * group.head.classes];
                let scale = single.logits[0].iter().fold(1e-6f32, |largest, logit| largest.max(logit.abs()));
                for (got, want) in batched.iter().zip(&single.logits[0]) {
                    prop_assert!((got - want).abs() <= 1e-4 * scale, "{} {}", got, want);
                }
            }
        }
    }
}
