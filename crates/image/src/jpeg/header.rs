//! Reads what Pillow's `JpegImagePlugin` reads before it calls libjpeg: the segments up to the first scan, with Pillow's
//! rules for junk and for segments that are too short.

use memchr::memchr;

use super::damaged;
use crate::error::ImageError;

/// The frame header, and one field of the first scan's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub width: u16,
    pub height: u16,
    pub is_progressive: bool,
    pub components: Vec<Component>,
    /// The components of the first scan: fewer than the frame's if each has its own scan.
    pub components_of_scan: u8,
}

/// A component's sampling factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Component {
    pub horizontal: u8,
    pub vertical: u8,
}

const START_OF_SCAN: u8 = 0xda;

impl Header {
    /// # Errors
    /// [`ImageError::Malformed`] where Pillow's `Image.open` refuses the file, or if libjpeg does not decode the coding
    /// process.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut segments = Segments {
            rest: bytes.get(2..).unwrap_or_default(),
        };
        let mut header = None;
        let mut profiles = Profiles::default();
        loop {
            let marker = segments.marker()?;
            match marker {
                0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xde => {
                    header = Some(Self::of_frame(marker, segments.segment()?)?);
                    profiles.check()?;
                }
                START_OF_SCAN => {
                    let scan = segments.segment()?;
                    let mut header: Self = header.ok_or_else(|| damaged("a scan comes before the frame header"))?;
                    header.components_of_scan = scan.first().copied().unwrap_or(0);
                    return Ok(header);
                }
                0xdb => check_tables(segments.segment()?)?,
                0xe0..=0xef => check_application(marker, segments.segment()?, &mut profiles)?,
                0xc4 | 0xcc | 0xdc | 0xdd | 0xdf | 0xfe => {
                    segments.segment()?;
                }
                // Reserved for JPEG-LS and others, and markers without a segment.
                0xf7 => return Err(damaged("it is JPEG-LS, which is not supported")),
                0xc8 | 0xd0..=0xd9 | 0xf0..=0xfd => {}
                _ => return Err(damaged(format!("there is no marker 0x{marker:02x}"))),
            }
        }
    }

    fn of_frame(marker: u8, segment: &[u8]) -> Result<Self, ImageError> {
        let &[bits, h1, h0, w1, w0, count, ref components @ ..] = segment else {
            return Err(damaged("its frame header is too short"));
        };
        if bits != 8 {
            return Err(damaged(format!("it has {bits} bits per sample; 8 are supported")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(damaged(format!("it has {count} components; 1, 3 or 4 are supported")));
        }
        let (each, []) = components.as_chunks::<3>() else {
            return Err(damaged("its frame header has an odd length"));
        };
        if let Some(process) = unsupported_process(marker) {
            return Err(damaged(format!(
                "it is a {process} JPEG; baseline and progressive ones are supported"
            )));
        }
        let mut sampling = Vec::with_capacity(each.len());
        for &[_, factors, _] in each {
            sampling.push(Component {
                horizontal: factors >> 4,
                vertical: factors & 15,
            });
        }
        Ok(Self {
            width: u16::from_be_bytes([w1, w0]),
            height: u16::from_be_bytes([h1, h0]),
            is_progressive: matches!(marker, 0xc2 | 0xca),
            components: sampling,
            components_of_scan: 0,
        })
    }
}

/// Returns the name of a coding process that libjpeg does not decode, by its frame marker (T.81, table B.1).
fn unsupported_process(marker: u8) -> Option<&'static str> {
    match marker {
        0xc3 => Some("lossless"),
        0xcb => Some("lossless, arithmetic-coded"),
        0xc5..=0xc7 | 0xcd..=0xcf | 0xde => Some("hierarchical"),
        _ => None,
    }
}

/// Checks that the quantisation tables are complete.
fn check_tables(mut segment: &[u8]) -> Result<(), ImageError> {
    while let [kind, rest @ ..] = segment {
        let length = if kind >> 4 == 0 { 64 } else { 128 };
        segment = rest
            .get(length..)
            .ok_or_else(|| damaged("a quantisation table is cut short"))?;
    }
    Ok(())
}

/// Checks that the segments whose contents Pillow reads are long enough.
fn check_application<'a>(marker: u8, segment: &'a [u8], profiles: &mut Profiles<'a>) -> Result<(), ImageError> {
    let is_short = match marker {
        0xe0 => segment.starts_with(b"JFIF") && segment.len() < 7,
        0xee => segment.starts_with(b"Adobe") && segment.len() < 7,
        0xed => segment
            .strip_prefix(b"Photoshop 3.0\0")
            .is_some_and(ends_in_resource_name),
        _ => false,
    };
    if is_short {
        return Err(damaged(format!("application segment {} is cut short", marker & 15)));
    }
    // After the checks above, as in Pillow.
    if marker == 0xe2 && !segment.starts_with(b"FPXR\0") && segment.starts_with(b"ICC_PROFILE\0") {
        profiles.add(segment);
    }
    Ok(())
}

/// Returns true if a list of Photoshop's image resources ends where the length of a resource's name should be.
fn ends_in_resource_name(resources: &[u8]) -> bool {
    const MARK: usize = 14;
    let mut at = 0;
    while resources.get(at..).is_some_and(|rest| rest.starts_with(b"8BIM")) {
        at += 4;
        if resources.len() < at + 2 {
            return false;
        }
        at += 2;
        let Some(&name_length) = resources.get(at) else {
            return true;
        };
        at += 1 + usize::from(name_length);
        // Pillow counts from the segment's start.
        at += (at + MARK) & 1;
        let Some(size) = resources.get(at..).and_then(|rest| rest.first_chunk()) else {
            return false;
        };
        at = at.saturating_add(4).saturating_add(u32::from_be_bytes(*size) as usize);
        at = at.saturating_add((at.saturating_add(MARK)) & 1);
    }
    false
}

/// The pieces of a colour profile since the last frame header. Pillow reads the first of them in byte order.
#[derive(Default)]
struct Profiles<'a> {
    first: Option<&'a [u8]>,
}

impl<'a> Profiles<'a> {
    fn add(&mut self, piece: &'a [u8]) {
        self.first = Some(self.first.map_or(piece, |first| first.min(piece)));
    }

    fn check(&mut self) -> Result<(), ImageError> {
        match self.first.take() {
            Some(piece) if piece.len() < 14 => Err(damaged("its colour profile is cut short")),
            _ => Ok(()),
        }
    }
}

/// The rest of the file.
struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// Skips junk and fill bytes, and returns the next marker.
    fn marker(&mut self) -> Result<u8, ImageError> {
        loop {
            let at = memchr(0xff, self.rest).ok_or_else(ends_early)?;
            match self.rest[at + 1..] {
                [] => return Err(ends_early()),
                // Fill bytes; the last 0xff begins the marker.
                [0xff, ref rest @ ..] => {
                    let fill = rest.iter().position(|&byte| byte != 0xff).unwrap_or(rest.len());
                    self.rest = &self.rest[at + 1 + fill..];
                }
                // An escaped 0xff.
                [0x00, ref rest @ ..] => self.rest = rest,
                [marker, ref rest @ ..] => {
                    self.rest = rest;
                    return Ok(marker);
                }
            }
        }
    }

    /// Returns the contents of a segment, which follow its length.
    fn segment(&mut self) -> Result<&'a [u8], ImageError> {
        let (length, rest) = self.rest.split_first_chunk().ok_or_else(ends_early)?;
        let length = usize::from(u16::from_be_bytes(*length)).saturating_sub(2);
        let (segment, rest) = rest.split_at_checked(length).ok_or_else(ends_early)?;
        self.rest = rest;
        Ok(segment)
    }
}

fn ends_early() -> ImageError {
    damaged("it ends before its first scan")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a file of these segments, each a marker and contents.
    fn file(segments: &[(u8, &[u8])]) -> Vec<u8> {
        let mut file = vec![0xff, 0xd8];
        for (marker, contents) in segments {
            file.extend([0xff, *marker]);
            file.extend((contents.len() as u16 + 2).to_be_bytes());
            file.extend(*contents);
        }
        file
    }

    const FRAME: &[u8] = &[8, 0, 200, 1, 44, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1];
    const SCAN: &[u8] = &[3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0];

    fn refusal(segments: &[(u8, &[u8])]) -> String {
        Header::read(&file(segments)).unwrap_err().to_string()
    }

    #[test]
    fn the_frame_is_read_past_junk_and_fill_bytes() {
        let header = Header::read(&file(&[(0xc2, FRAME), (START_OF_SCAN, SCAN)])).unwrap();
        assert_eq!((header.width, header.height, header.components_of_scan), (300, 200, 3));
        assert!(header.is_progressive);
        assert_eq!(
            header.components[0],
            Component {
                horizontal: 2,
                vertical: 2
            }
        );
        let mut junk = file(&[]);
        junk.extend(b"\0junk\xff\xff\xff\0\xff");
        junk.extend(&file(&[(0xc2, FRAME), (START_OF_SCAN, SCAN)])[2..]);
        assert_eq!(Header::read(&junk).unwrap(), header);
    }

    #[test]
    fn unsupported_processes_are_named() {
        let scan = (START_OF_SCAN, SCAN);
        for (marker, name) in [(0xc3, "lossless"), (0xc5, "hierarchical"), (0xcb, "arithmetic")] {
            let message = refusal(&[(marker, FRAME), scan]);
            assert!(message.contains(name), "{message}");
        }
        let twelve = [&[12][..], &FRAME[1..]].concat();
        assert!(refusal(&[(0xc1, &twelve), scan]).contains("12 bits per sample"));
        assert!(refusal(&[(0xf7, FRAME), scan]).contains("JPEG-LS"));
        let two = [&FRAME[..5], &[2], &FRAME[6..12]].concat();
        assert!(refusal(&[(0xc0, &two), scan]).contains("2 components"));
    }

    #[test]
    fn segments_that_pillow_cannot_read_are_refused() {
        let rest = [(0xc0, FRAME), (START_OF_SCAN, SCAN)];
        let cases: [(u8, &[u8]); 7] = [
            (0xe0, b"JFIF\0\x01"),
            (0xee, b"Adobe\0"),
            (0xed, b"Photoshop 3.0\x008BIM\x04\x04"),
            (0xe2, b"ICC_PROFILE\0\x01"),
            (0xdb, &[0; 64]),
            (0xc0, &[8, 0, 1, 0, 1]),
            (0xc0, &[8, 0, 1, 0, 1, 1, 1, 0x11]),
        ];
        for case in cases {
            refusal(&[case, rest[0], rest[1]]);
        }
        for case in [
            (0xe0, &b"JFXX"[..]),
            (0xee, b"Adobe\0\x64"),
            (0xed, b"Photoshop 3.0\x008BIM\x04"),
            (0xdb, &[0; 65]),
        ] {
            Header::read(&file(&[case, rest[0], rest[1]])).unwrap();
        }
    }

    #[test]
    fn no_prefix_panics() {
        let whole = file(&[
            (0xed, b"Photoshop 3.0\x008BIM\x04\x04\x01a\0\0\0\x02xx8BIM"),
            (0xc0, FRAME),
            (START_OF_SCAN, SCAN),
        ]);
        for length in 0..whole.len() {
            assert!(Header::read(&whole[..length]).is_err());
        }
    }
}
