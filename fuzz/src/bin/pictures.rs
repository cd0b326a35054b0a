//! `pictures decode` and `pictures resize`: decoding and resizing for scripts that compare them with Pillow's. Requests are
//! read from standard input and answered in order on standard output; all numbers are little-endian.
//!
//! - `decode`: a u32 length and a file of that many bytes. The answer is 1 and 150,528 bytes of pixels, or 0, a u32 length
//!   and an error message of that many bytes.
//! - `resize`: eleven u32 – width, height, bytes of a pixel (1 or 4), number of the filter, number of repetitions, the new
//!   width and height, and the crop (left, right, top, bottom) – and the pixels. The answer is the shortest time in
//!   nanoseconds (u64) and the pixels in red, green and blue.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::time::Instant;

use headswap_image::{Channels, Filter, ImageSettings, Shape, Side, decode, resize};

fn main() -> io::Result<()> {
    let (mut input, mut output) = (BufReader::new(io::stdin()), BufWriter::new(io::stdout()));
    let command = std::env::args().nth(1).unwrap_or_default();
    loop {
        let answered = match command.as_str() {
            "decode" => answer_decode(&mut input, &mut output),
            "resize" => answer_resize(&mut input, &mut output),
            _ => return Err(io::Error::other("usage: pictures decode|resize")),
        };
        match answered {
            Ok(()) => output.flush()?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn answer_decode(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let length = number(input)? as usize;
    let file = bytes(input, length)?;
    match decode(&file, ImageSettings::default()) {
        Ok(pixels) => {
            output.write_all(&[1])?;
            output.write_all(pixels.as_bytes())
        }
        Err(error) => {
            let message = error.to_string();
            output.write_all(&[0])?;
            output.write_all(&(message.len() as u32).to_le_bytes())?;
            output.write_all(message.as_bytes())
        }
    }
}

fn answer_resize(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let [width, height, pixel, filter, repeats] = numbers(input)?;
    let resized: [u32; 2] = numbers(input)?;
    let [left, right, top, bottom] = numbers(input)?.map(u64::from);
    let channels = if pixel == 1 { Channels::Grey } else { Channels::Rgbx };
    let filters = [
        Filter::Nearest,
        Filter::Box,
        Filter::Bilinear,
        Filter::Hamming,
        Filter::Bicubic,
        Filter::Lanczos,
    ];
    let pixels = bytes(input, width as usize * height as usize * channels.count())?;
    let shape = Shape {
        width,
        height,
        channels,
    };
    let [columns, rows] = [(resized[0], left..right), (resized[1], top..bottom)].map(|(resized, kept)| Side {
        resized: resized.into(),
        kept,
    });
    let (mut shortest, mut result) = (u64::MAX, Vec::new());
    for _ in 0..repeats.max(1) {
        let started = Instant::now();
        result = resize(
            shape,
            &pixels,
            filters[filter as usize],
            [columns.clone(), rows.clone()],
        );
        shortest = shortest.min(started.elapsed().as_nanos() as u64);
    }
    output.write_all(&shortest.to_le_bytes())?;
    output.write_all(&result)
}

fn number(input: &mut impl Read) -> io::Result<u32> {
    numbers::<1>(input).map(|[number]| number)
}

fn numbers<const N: usize>(input: &mut impl Read) -> io::Result<[u32; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 4];
        input.read_exact(&mut bytes)?;
        *number = u32::from_le_bytes(bytes);
    }
    Ok(numbers)
}

fn bytes(input: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}
