//! VGG16 by this crate, to be timed and compared:
//!
//! `vgg16 time BATCH float|integer [ROUNDS]` prints ms per image of each layer, with generated weights;
//! `vgg16 serve WEIGHTS` answers the commands of `scripts/compare.py` and `scripts/accuracy.py` on standard input.
#![allow(missing_docs)]

mod clock;
mod network;

use clock::Clock;
use network::{LAPS, Network};
use std::io::{BufRead, Write};
use winograd::{Engine, Isa, Precision};

const PICTURE: usize = 224 * 224 * 3;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["time", batch, precision, ref rest @ ..] => {
            let rounds = rest
                .first()
                .map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
            time(batch.parse().expect("BATCH is a number"), parse(precision), rounds);
        }
        ["serve", weights] => serve(weights),
        _ => panic!("see the top of examples/vgg16/main.rs"),
    }
}

fn parse(precision: &str) -> Precision {
    match precision {
        "float" => Precision::Float,
        "integer" => Precision::Integer,
        other => panic!("{other} is neither float nor integer"),
    }
}

/// THREADS (2) threads and instruction set number ISA (0, the best).
fn engine() -> Engine {
    let number = |name, default| std::env::var(name).map_or(default, |value| value.parse().expect("a number"));
    Engine::with_isa(number("THREADS", 2), Isa::all()[number("ISA", 0)])
}

fn time(batch: usize, precision: Precision, rounds: usize) {
    let mut engine = engine();
    let mut network = Network::new(&network::generated_weights(), precision);
    let pixels: Vec<u8> = network::numbers(5, batch * PICTURE, 127.0)
        .iter()
        .map(|x| (x + 128.0) as u8)
        .collect();
    let mut times = vec![Vec::new(); LAPS];
    let mut totals = Vec::new();
    for _ in 0..rounds {
        let start = Clock::now();
        let laps = network.forward(&pixels, &mut engine);
        totals.push(start.elapsed_ms() / batch as f64);
        for (times, lap) in times.iter_mut().zip(laps) {
            times.push(lap / batch as f64);
        }
    }
    let megabytes = [network.weight_bytes(), network.map_bytes(), engine.scratch_bytes()].map(|bytes| bytes >> 20);
    println!("{engine:?} {precision:?} batch {batch}: weights, maps, scratch {megabytes:?} MiB; ms/image:");
    for (i, times) in times.iter_mut().enumerate() {
        print!("{} {:.2} ", network::lap_name(i), clock::statistic(times));
    }
    println!("total {:.2}", clock::statistic(&mut totals));
}

/// Commands are lines: `time float|integer BATCH` answers ms per image; `run float|integer PIXELS OUTPUT` reads u8
/// pictures and writes each one's 4096 features and 1000 logits as f32.
fn serve(weights: &str) {
    let weights = network::read_f32(weights);
    let mut engine = engine();
    let mut networks = [Precision::Float, Precision::Integer].map(|precision| Network::new(&weights, precision));
    drop(weights);
    println!("ready {:?}", networks.each_ref().map(Network::weight_bytes));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input is text");
        let words: Vec<&str> = line.split(' ').collect();
        let network = &mut networks[usize::from(parse(words[1]) == Precision::Integer)];
        match words[..] {
            ["time", _, batch] => {
                let batch: usize = batch.parse().expect("BATCH is a number");
                let pixels = vec![77u8; batch * PICTURE];
                let start = Clock::now();
                network.forward(&pixels, &mut engine);
                println!("{}", start.elapsed_ms() / batch as f64);
            }
            ["run", _, pixels, output] => {
                let pixels = std::fs::read(pixels).expect("PIXELS is a file");
                let mut file = std::io::BufWriter::new(std::fs::File::create(output).expect("OUTPUT can be written"));
                for pixels in pixels.chunks(8 * PICTURE) {
                    network.forward(pixels, &mut engine);
                    for (features, logits) in network.features.chunks(4096).zip(network.logits.chunks(1000)) {
                        for value in features.iter().chain(logits) {
                            file.write_all(&value.to_le_bytes()).expect("OUTPUT can be written");
                        }
                    }
                }
                file.flush().expect("OUTPUT can be written");
                println!("done");
            }
            _ => panic!("unknown command {line}"),
        }
    }
}
