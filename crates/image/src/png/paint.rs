//! Writes unfiltered rows to the picture.

use super::passes::{Area, Pass};
use super::unpack::Unpacker;
use crate::picture::Shape;
use crate::sink::RowSink;

/// Passes rows on to the resizer, or holds the whole picture if its rows are not in order.
pub(super) struct Painter<'a> {
    rows: &'a mut dyn RowSink,
    unpacker: &'a Unpacker,
    shape: Shape,
    area: Area,
    /// Bytes of a pixel.
    count: usize,
    /// Rows that have been passed on.
    written: u32,
    /// True if rows are ignored.
    muted: bool,
    /// The picture so far, and a buffer of a row.
    held: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Painter<'a> {
    pub(super) fn new(rows: &'a mut dyn RowSink, unpacker: &'a Unpacker, shape: Shape, area: Area, hold: bool) -> Self {
        let count = shape.channels.count();
        let mut painter = Self {
            rows,
            unpacker,
            shape,
            area,
            count,
            written: 0,
            muted: false,
            held: None,
        };
        if hold {
            let line = shape.width as usize * count;
            let mut picture = vec![0; line * shape.height as usize];
            painter.blacken(&mut picture);
            painter.held = Some((picture, vec![0; line]));
        }
        painter
    }

    /// Ignores the rows that follow, which have been painted before.
    pub(super) fn mute(&mut self) {
        self.muted = true;
    }

    /// Paints row `y` of a pass.
    pub(super) fn paint(&mut self, pass: &Pass, y: u32, samples: &[u8]) {
        if self.muted {
            return;
        }
        if self.held.is_some() {
            self.scatter(pass, y, samples);
            return;
        }
        while self.written < self.area.top {
            self.write_black();
        }
        let row = self.rows.row();
        let (left, width) = (
            self.area.left as usize * self.count,
            self.area.width as usize * self.count,
        );
        if width < row.len() {
            blacken(row, self.unpacker, self.count);
        }
        self.unpacker.unpack(samples, &mut row[left..][..width]);
        self.rows.advance();
        self.written += 1;
    }

    /// Like in Pillow, the frame's offset is ignored: an interlaced frame is at the top left.
    fn scatter(&mut self, pass: &Pass, y: u32, samples: &[u8]) {
        let Some((picture, line)) = &mut self.held else {
            return;
        };
        let line = &mut line[..pass.width as usize * self.count];
        self.unpacker.unpack(samples, line);
        let length = self.shape.width as usize * self.count;
        let top = (pass.top + y * pass.step_y) as usize;
        let row = &mut picture[top * length..][..length][pass.left as usize * self.count..];
        let step = pass.step_x as usize;
        if self.count == 4 {
            scatter::<4>(line, row, step);
        } else {
            scatter::<1>(line, row, step);
        }
    }

    /// Passes on the rest of the picture.
    pub(super) fn finish(mut self) {
        if let Some((picture, _)) = self.held.take() {
            for line in picture.chunks_exact(self.shape.width as usize * self.count) {
                self.rows.row().copy_from_slice(line);
                self.rows.advance();
            }
            return;
        }
        while self.written < self.shape.height {
            self.write_black();
        }
    }

    fn write_black(&mut self) {
        blacken(self.rows.row(), self.unpacker, self.count);
        self.rows.advance();
        self.written += 1;
    }

    fn blacken(&self, row: &mut [u8]) {
        if self.unpacker.black() != [0; 4] {
            blacken(row, self.unpacker, self.count);
        }
    }
}

fn blacken(row: &mut [u8], unpacker: &Unpacker, count: usize) {
    for pixel in row.chunks_exact_mut(count) {
        pixel.copy_from_slice(&unpacker.black()[..count]);
    }
}

/// Copies pixels of N bytes to every `step`th pixel of `row`.
fn scatter<const N: usize>(line: &[u8], row: &mut [u8], step: usize) {
    for (to, from) in row
        .as_chunks_mut::<N>()
        .0
        .iter_mut()
        .step_by(step)
        .zip(line.as_chunks::<N>().0)
    {
        *to = *from;
    }
}
