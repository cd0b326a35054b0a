//! Vectors made of the last pooling's maps, on the CPU.

use headswap_spec::HeadInput;

use super::stack::POOLED_SIDE;

/// Appends the vector that `input` makes of maps of one picture: `channels` x height x width numbers, as PyTorch flattens.
/// A mean is a sum in row-major order, in f32, divided by the count.
pub fn pool_maps(input: HeadInput, maps: &[f32], [height, width]: [usize; 2], vector: &mut Vec<f32>) {
    let area = (height * width).max(1);
    match input {
        HeadInput::Flatten => vector.extend_from_slice(maps),
        HeadInput::FlattenHwc => {
            for position in 0..area {
                vector.extend(maps.iter().skip(position).step_by(area));
            }
        }
        HeadInput::Adaptive7x7 | HeadInput::Features => {
            if [height, width] == [POOLED_SIDE; 2] {
                vector.extend_from_slice(maps);
                return;
            }
            for plane in maps.chunks_exact(area) {
                adaptive_average(plane, [height, width], vector);
            }
        }
        HeadInput::GlobalAverage => vector.extend(maps.chunks_exact(area).map(mean)),
        HeadInput::GlobalMax => vector.extend(maps.chunks_exact(area).map(largest)),
        HeadInput::GlobalMaxAverage => {
            vector.extend(maps.chunks_exact(area).map(largest));
            vector.extend(maps.chunks_exact(area).map(mean));
        }
    }
}

fn mean(plane: &[f32]) -> f32 {
    plane.iter().sum::<f32>() / plane.len() as f32
}

/// Returns the largest number, or NaN if there is one.
fn largest(plane: &[f32]) -> f32 {
    let mut largest = f32::NEG_INFINITY;
    for &number in plane {
        if number > largest || number.is_nan() {
            largest = number;
        }
    }
    largest
}

/// Appends PyTorch's `AdaptiveAvgPool2d(7)` of one channel: output i covers the rows from floor(i h / 7) to
/// ceil((i + 1) h / 7), and columns likewise.
fn adaptive_average(plane: &[f32], [height, width]: [usize; 2], vector: &mut Vec<f32>) {
    for row in 0..POOLED_SIDE {
        let rows = covered(row, height);
        for column in 0..POOLED_SIDE {
            let columns = covered(column, width);
            let mut sum = 0.0;
            for row in rows.clone() {
                for column in columns.clone() {
                    sum += plane[row * width + column];
                }
            }
            vector.push(sum / (rows.len() * columns.len()) as f32);
        }
    }
}

fn covered(index: usize, side: usize) -> std::ops::Range<usize> {
    index * side / POOLED_SIDE..((index + 1) * side).div_ceil(POOLED_SIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels of 2 x 3.
    const MAPS: [f32; 12] = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0, -1.0, -2.0, -3.0, -4.0, -5.0, -9.0];

    fn check(input: HeadInput, expected: &[f32]) {
        let mut vector = Vec::new();
        pool_maps(input, &MAPS, [2, 3], &mut vector);
        assert_eq!(vector, expected, "{input:?}");
    }

    #[test]
    fn each_input_is_as_its_framework_computes_it() {
        check(HeadInput::Flatten, &MAPS);
        let by_position = [1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.0, -4.0, 5.0, -5.0, 9.0, -9.0];
        check(HeadInput::FlattenHwc, &by_position);
        check(HeadInput::GlobalAverage, &[4.0, -4.0]);
        check(HeadInput::GlobalMax, &[9.0, -1.0]);
        check(HeadInput::GlobalMaxAverage, &[9.0, -1.0, 4.0, -4.0]);
    }

    /// PyTorch's AdaptiveAvgPool2d(7) of 0 to 9 as 1 x 10, and of a map that is smaller than 7x7.
    #[test]
    fn the_average_to_7x7_covers_as_pytorch_does() {
        let plane: Vec<f32> = (0..10).map(|number| number as f32).collect();
        let mut vector = Vec::new();
        pool_maps(HeadInput::Adaptive7x7, &plane, [1, 10], &mut vector);
        let row = [0.5, 1.5, 3.0, 4.5, 6.0, 7.5, 8.5];
        assert_eq!(vector, [row; 7].concat());

        vector.clear();
        pool_maps(HeadInput::Adaptive7x7, &[1.0, 3.0], [1, 2], &mut vector);
        assert_eq!(vector[..7], [1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0]);
    }
}
