//! VGG16 built from this crate's layers, as a server would run it.

use winograd::{Bias, Engine, Maps, Normalisation, PackedConv, PackedLinear, Precision};

use crate::PICTURE;
use crate::clock::Clock;

/// Output channels of the convolutions; 0 is a max pooling.
const CHANNELS: [usize; 18] = [
    64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0,
];
const LINEARS: [(usize, usize); 3] = [(25088, 4096), (4096, 4096), (4096, 1000)];

/// The first convolutions run image by image, so that maps of 12.8 MB stay in L3; their filters are small. The others run
/// for the whole batch, so that filters of up to 38 MB are read once.
const IMAGE_BY_IMAGE: usize = 7;

/// Normalisation, 13 convolutions, flattening, 3 Linears.
pub const LAPS: usize = 18;

pub fn lap_name(lap: usize) -> String {
    match lap {
        0 => "norm".into(),
        14 => "flat".into(),
        1..14 => format!("c{lap}"),
        _ => format!("fc{}", lap - 14),
    }
}

pub struct Network {
    normalisation: Normalisation,
    convs: Vec<(PackedConv, Bias, bool)>,
    linears: Vec<(PackedLinear, Bias)>,
    maps: [Maps; 3],
    pub features: Vec<f32>,
    pub logits: Vec<f32>,
}

impl Network {
    /// `weights` holds all parameters in the layers' order, weight before bias.
    pub fn new(weights: &[f32], precision: Precision) -> Self {
        let mut rest = weights;
        let mut take = |len: usize| {
            let (taken, others) = rest.split_at(len);
            rest = others;
            taken
        };
        let mut inputs = 3;
        let mut convs = Vec::new();
        for (i, &outputs) in CHANNELS.iter().enumerate() {
            if outputs > 0 {
                let (weight, bias) = (take(outputs * inputs * 9), take(outputs));
                let conv = PackedConv::new(weight, outputs, precision);
                convs.push((conv, Bias::new(bias), CHANNELS[i + 1] == 0));
                inputs = outputs;
            }
        }
        let linears = LINEARS
            .map(|(i, o)| (PackedLinear::new(take(i * o), o, precision), Bias::new(take(o))))
            .into();
        Self {
            normalisation: Normalisation::new(224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            convs,
            linears,
            maps: Default::default(),
            features: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Computes features and logits; returns each lap's ms.
    pub fn forward(&mut self, pixels: &[u8], engine: &mut Engine) -> [f64; LAPS] {
        let mut laps = [0f64; LAPS];
        let mut last = Clock::now();
        let mut lap = |i: usize| {
            laps[i] += last.elapsed_ms();
            last = Clock::now();
        };
        let [a, b, joint] = &mut self.maps;
        let (first, others) = self.convs.split_at(IMAGE_BY_IMAGE);
        for (image, picture) in pixels.chunks_exact(PICTURE).enumerate() {
            self.normalisation.apply(picture, a, engine);
            lap(0);
            for (i, (conv, bias, pool)) in first.iter().enumerate() {
                conv.forward(a, bias, *pool, b, engine);
                std::mem::swap(a, b);
                lap(1 + i);
            }
            if image == 0 {
                joint.reset(pixels.len() / PICTURE, a.channels(), a.height(), a.width());
            }
            joint.copy_image(image, a, 0);
        }
        std::mem::swap(a, joint);
        for (i, (conv, bias, pool)) in others.iter().enumerate() {
            conv.forward(a, bias, *pool, b, engine);
            std::mem::swap(a, b);
            lap(1 + IMAGE_BY_IMAGE + i);
        }
        self.logits.clear();
        a.flatten(&mut self.logits);
        lap(14);
        for (i, (linear, bias)) in self.linears.iter().enumerate() {
            std::mem::swap(&mut self.features, &mut self.logits);
            linear.forward(&self.features, bias, i < 2, &mut self.logits, engine);
            lap(15 + i);
        }
        laps
    }

    pub fn weight_bytes(&self) -> usize {
        let convs: usize = self.convs.iter().map(|(conv, ..)| conv.bytes()).sum();
        convs + self.linears.iter().map(|(linear, _)| linear.bytes()).sum::<usize>()
    }

    pub fn map_bytes(&self) -> usize {
        self.maps.iter().map(Maps::bytes).sum()
    }
}

/// `count` numbers in [-bound, bound).
pub fn numbers(seed: u64, count: usize, bound: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * bound
    };
    (0..count).map(next).collect()
}

/// All parameters: weights within He's bounds, biases within 0.05.
pub fn generated_weights() -> Vec<f32> {
    let mut weights = Vec::new();
    let mut layer = |fan_in: usize, outputs: usize| {
        let seed = weights.len() as u64;
        weights.extend(numbers(seed, fan_in * outputs, (6.0 / fan_in as f32).sqrt()));
        weights.extend(numbers(seed + 1, outputs, 0.05));
    };
    let mut inputs = 3;
    for outputs in CHANNELS.into_iter().filter(|&outputs| outputs > 0) {
        layer(inputs * 9, outputs);
        inputs = outputs;
    }
    LINEARS.into_iter().for_each(|(i, o)| layer(i, o));
    weights
}
