//! VGG16 by this crate, timed layer by layer with generated weights: `vgg16 BATCH float|integer [ROUNDS]` prints ms per
//! image.
#![allow(missing_docs)]

mod clock;
mod network;

use clock::Clock;
use network::{LAPS, Network};
use winograd::{Engine, Isa, Precision};

const PICTURE: usize = 224 * 224 * 3;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [batch, precision, ref rest @ ..] => {
            let rounds = rest
                .first()
                .map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
            time(batch.parse().expect("BATCH is a number"), parse(precision), rounds);
        }
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

/// An engine of THREADS threads (2 by default) and instruction set ISA (avx512-vnni, avx512, avx2 or portable; by
/// default the best).
fn engine() -> Engine {
    let threads = std::env::var("THREADS").map_or(2, |threads| threads.parse().expect("THREADS is a number"));
    let Ok(name) = std::env::var("ISA") else {
        return Engine::new(threads);
    };
    let mut all = Isa::all().into_iter();
    let isa = all.find(|isa| format!("{isa:?}") == name);
    Engine::with_isa(threads, isa.expect("this CPU has the instruction set ISA"))
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
    let isa = engine.isa();
    println!("{isa:?} {precision:?} batch {batch}: weights, maps, scratch {megabytes:?} MiB; ms/image:");
    for (i, times) in times.iter_mut().enumerate() {
        print!("{} {:.2} ", network::lap_name(i), clock::statistic(times));
    }
    println!("total {:.2}", clock::statistic(&mut totals));
}
