//! Expands the LZW codes of a GIF's pixels as Pillow does.

use std::ops::ControlFlow;

/// Limit of the bits of a pixel, and of a code that was added to the table.
const BITS_MAX: u32 = 12;
/// Codes of a full table.
const CODES: usize = 1 << BITS_MAX;
/// The bytes of the file that Pillow reads at a time.
const READ: usize = 65536;

const CUT_SHORT: &str = "its pixels end too early";

/// The memory that [`expand`] allocates, in bytes.
pub(super) const MEMORY: u64 = size_of::<Table>() as u64;

/// Receives the pixels in order.
pub(super) trait Sink {
    /// Breaks once it has all pixels; the rest of `string` is then dropped.
    fn write(&mut self, string: &[u8]) -> ControlFlow<()>;
}

/// Expands the sub-blocks `bytes` of pixels of `depth` bits until `sink` breaks.
///
/// # Errors
/// A code is wrong, or there are too few pixels.
pub(super) fn expand(bytes: &[u8], depth: u8, sink: &mut impl Sink) -> Result<(), &'static str> {
    if u32::from(depth) > BITS_MAX {
        return Err("its pixels have more than 12 bits");
    }
    let mut codes = Codes::new(bytes);
    let mut table = Box::new(Table::new(depth.into()));
    loop {
        let code = codes.next(table.width)?;
        if code == table.clear {
            table.clear();
        } else if code == table.clear + 1 {
            // The end code. If pixels are missing, Pillow continues after it as long as it can read more of the file.
            codes.read_on()?;
        } else {
            let string = table.string(code).ok_or("its pixels have an invalid code")?;
            if sink.write(string).is_break() {
                return Ok(());
            }
        }
    }
}

/// The strings of the codes. Each is the string of an earlier code and one more pixel.
struct Table {
    /// Bits of a pixel.
    depth: u32,
    /// The code that clears the table. Smaller codes are pixels, the next larger one is the end code.
    clear: usize,
    /// The code that is added next.
    next: usize,
    /// Bits of a code.
    width: u32,
    /// The previous code, and the first pixel of its string.
    previous: Option<(usize, u8)>,
    prefixes: [u16; CODES],
    last: [u8; CODES],
    /// The string of the current code, written from its end.
    string: [u8; CODES + 1],
}

impl Table {
    fn new(depth: u32) -> Self {
        let clear = 1 << depth;
        Self {
            depth,
            clear,
            next: clear + 2,
            width: depth + 1,
            previous: None,
            prefixes: [0; CODES],
            last: [0; CODES],
            string: [0; CODES + 1],
        }
    }

    fn clear(&mut self) {
        self.next = self.clear + 2;
        self.width = self.depth + 1;
        self.previous = None;
    }

    /// Returns the pixels of `code` and adds the code that it completes. `None` if the code is not defined yet.
    fn string(&mut self, code: usize) -> Option<&[u8]> {
        let mut start = self.string.len();
        let mut link = code;
        match self.previous {
            None if code > self.clear => return None,
            Some(_) if code > self.next => return None,
            Some((before, first)) if code == self.next => {
                start -= 1;
                self.string[start] = first;
                link = before;
            }
            _ => {}
        }
        while link >= self.clear {
            start = start.checked_sub(1)?;
            self.string[start] = *self.last.get(link)?;
            link = self.prefixes[link].into();
        }
        // Like Pillow: of a pixel of 12 bits, 8 are kept.
        let first = link as u8;
        start = start.checked_sub(1)?;
        self.string[start] = first;
        if let Some((before, _)) = self.previous {
            self.add(before, first);
        }
        self.previous = Some((code, first));
        Some(&self.string[start..])
    }

    /// Adds the string of `prefix` and one more pixel, unless the table is full.
    fn add(&mut self, prefix: usize, last: u8) {
        if self.next >= CODES {
            return;
        }
        // Fits: no code is larger than `next`.
        self.prefixes[self.next] = prefix as u16;
        self.last[self.next] = last;
        // For pixels of one bit or none, `next` is larger than this from the start, and the codes keep their width.
        if self.next == (1 << self.width) - 1 && self.width < BITS_MAX {
            self.width += 1;
        }
        self.next += 1;
    }
}

/// Reads the codes in the sub-blocks, from the lowest bit of the first byte on.
struct Codes<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many bytes Pillow has read. It reads more where a sub-block is not complete, and at each end code.
    read: usize,
    /// Bytes left in the sub-block.
    block: usize,
    bits: u32,
    /// The number of valid `bits`.
    count: u32,
}

impl<'a> Codes<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            read: 0,
            block: 0,
            bits: 0,
            count: 0,
        }
    }

    fn next(&mut self, width: u32) -> Result<usize, &'static str> {
        while self.count < width {
            while self.block == 0 {
                self.begin_block()?;
            }
            let byte = *self.bytes.get(self.at).ok_or(CUT_SHORT)?;
            self.at += 1;
            self.block -= 1;
            self.bits |= u32::from(byte) << self.count;
            self.count += 8;
        }
        let code = self.bits & ((1 << width) - 1);
        self.bits >>= width;
        self.count -= width;
        Ok(code as usize)
    }

    /// Begins the next sub-block once all of it has been read. An empty one does not end the pixels.
    fn begin_block(&mut self) -> Result<(), &'static str> {
        match self.bytes[..self.read].get(self.at) {
            Some(&length) if self.at + usize::from(length) < self.read => {
                self.at += 1;
                self.block = length.into();
                Ok(())
            }
            _ => self.read_on(),
        }
    }

    fn read_on(&mut self) -> Result<(), &'static str> {
        if self.read == self.bytes.len() {
            return Err(CUT_SHORT);
        }
        self.read = self.bytes.len().min(self.read + READ);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Collects pixels until it has as many as are wanted.
    struct Kept {
        pixels: Vec<u8>,
        wanted: usize,
    }

    impl Sink for Kept {
        fn write(&mut self, string: &[u8]) -> ControlFlow<()> {
            self.pixels.extend_from_slice(string);
            if self.pixels.len() < self.wanted {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        }
    }

    /// Returns one sub-block of these codes and their widths.
    fn block(codes: &[(u32, u32)]) -> Vec<u8> {
        let (mut bits, mut count, mut bytes) = (0u32, 0, vec![0]);
        for &(code, width) in codes {
            bits |= code << count;
            count += width;
            while count >= 8 {
                bytes.push(bits as u8);
                bits >>= 8;
                count -= 8;
            }
        }
        bytes.push(bits as u8);
        bytes[0] = (bytes.len() - 1) as u8;
        bytes
    }

    fn expanded(bytes: &[u8], depth: u8, wanted: usize) -> Result<Vec<u8>, &'static str> {
        let mut kept = Kept {
            pixels: Vec::new(),
            wanted,
        };
        expand(bytes, depth, &mut kept)?;
        Ok(kept.pixels)
    }

    #[test]
    fn strings_grow_and_codes_widen() {
        // 1, then twice the code that is just being added, after which codes have 4 bits.
        let bytes = block(&[(4, 3), (1, 3), (6, 3), (7, 3), (2, 4)]);
        assert_eq!(expanded(&bytes, 2, 7).unwrap(), [1, 1, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn codes_of_pixels_of_one_bit_or_none_stay_narrow() {
        let bytes = block(&[(2, 2), (1, 2), (0, 2), (1, 2), (1, 2), (0, 2)]);
        assert_eq!(expanded(&bytes, 1, 5).unwrap(), [1, 0, 1, 1, 0]);
        assert_eq!(expanded(&[1, 0], 0, 8).unwrap(), [0; 8]);
    }

    #[test]
    fn of_pixels_of_12_bits_8_are_kept() {
        let bytes = block(&[(0xabc, 13)]);
        assert_eq!(expanded(&bytes, 12, 1).unwrap(), [0xbc]);
        assert!(expanded(&bytes, 13, 1).is_err());
    }

    #[test]
    fn undefined_codes_are_refused() {
        assert!(expanded(&block(&[(6, 3)]), 2, 1).is_err());
        assert!(expanded(&block(&[(1, 3), (7, 3), (0, 3)]), 2, 9).is_err());
    }

    #[test]
    fn a_sub_block_must_be_whole_and_an_empty_one_ends_nothing() {
        let whole = [0, 1, 0b0000_1100, 0, 1, 0b10];
        assert_eq!(expanded(&whole, 2, 3).unwrap(), [1, 0, 1]);
        let mut cut = block(&[(1, 3), (2, 3), (3, 3)]);
        assert_eq!(expanded(&cut, 2, 3).unwrap(), [1, 2, 3]);
        cut.pop();
        assert!(expanded(&cut, 2, 1).is_err());
    }

    #[test]
    fn an_end_code_ends_pixels_only_if_pillow_has_read_all() {
        let mut bytes = block(&[(1, 3), (5, 3), (2, 3)]);
        assert_eq!(expanded(&bytes, 2, 1).unwrap(), [1]);
        assert!(expanded(&bytes, 2, 2).is_err());
        bytes.resize(READ, 0);
        assert!(expanded(&bytes, 2, 2).is_err());
        bytes.push(0);
        assert_eq!(expanded(&bytes, 2, 2).unwrap(), [1, 2]);
    }
}
