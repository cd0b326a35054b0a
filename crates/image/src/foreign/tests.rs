//! Short inputs of each kind are named, and no bytes cause a panic.

use super::*;

const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";

fn named(bytes: &[u8]) -> String {
    name(bytes).map_or_else(String::new, |foreign| foreign.to_string())
}

/// Inputs and the beginnings of their names.
const INPUTS: &[(&[u8], &str)] = &[
    // Encodings of a picture.
    (b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMC", "base64 text of a JPEG file;"),
    (b"_9j_4AAQSkZJRgABAQAAAQABAAD_2wBDAAMC", "base64 text of a JPEG file;"),
    (
        b"/9j/4AAQSkZJRgAB\r\nAQAAAQABAAD/2wBD\r\nAAMC",
        "base64 text of a JPEG file;",
    ),
    (b"\xef\xbb\xbf/9j/4AAQSkZJRgAB", "base64 text of a JPEG file;"),
    (b"\"/9j/4AAQSkZJRgABAQ\"", "base64 text of a JPEG file;"),
    (b"b'/9j/4AAQSkZJRgABAQ=='", "base64 text of a JPEG file;"),
    (
        b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAf",
        "base64 text of a PNG file;",
    ),
    (
        b"R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAA",
        "base64 text of a GIF file;",
    ),
    (
        b"UklGRiQAAABXRUJQVlA4IBgAAAAwAQCdASoBAAEA",
        "base64 text of a WebP file;",
    ),
    (
        b"Qk06AAAAAAAAADYAAAAoAAAAAQAAAAEAAAABABgA",
        "base64 text of a BMP file;",
    ),
    (b"AAAAGGZ0eXBoZWljAAAAAG1pZjFoZWlj", "base64 text of a HEIC picture;"),
    (
        b"LzlqLzRBQVFTa1pKUmdBQkFRQUFBUUFCQUFE",
        "base64 text of base64 text; decode it twice",
    ),
    (b"q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=", "base64 text; decode"),
    (
        b"data:image/jpeg;base64,/9j/4AAQSkZJRgAB",
        "a data: URI of a JPEG file;",
    ),
    (
        b"\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUg\"",
        "a data: URI of a PNG file;",
    ),
    (b"data:image/svg+xml,%3Csvg%3E", "a data: URI; "),
    (
        b"b'\\xff\\xd8\\xff\\xe0\\x00\\x10JFIF'",
        "the escaped or printed form of a JPEG file;",
    ),
    (
        b"b'\\x89PNG\\r\\n\\x1a\\n'",
        "the escaped or printed form of a PNG file;",
    ),
    (b"b'GIF89a\\x01\\x00\\x01\\x00'", "the printed form of Python bytes;"),
    (
        b"bytearray(b'\\xff\\xd8\\xff\\xe0')",
        "the escaped or printed form of a JPEG file;",
    ),
    (
        b"image: \"\\377\\330\\377\\340\\000\"",
        "the escaped or printed form of a JPEG file;",
    ),
    (b"%FF%D8%FF%E0%00%10JFIF", "the escaped or printed form of a JPEG file;"),
    (b"=FF=D8=FF=E0=00=10JFIF", "the escaped or printed form of a JPEG file;"),
    (b"ffd8ffe000104a46494600010101", "hexadecimal text of a JPEG file;"),
    (b"FF D8 FF E0 00 10 4A 46", "hexadecimal text of a JPEG file;"),
    (b"0xffd8ffe000104a46", "hexadecimal text of a JPEG file;"),
    (b"\\xffd8ffe000104a46", "hexadecimal text of a JPEG file;"),
    (b"{0xFF, 0xD8, 0xFF, 0xE0, 0x00}", "hexadecimal text of a JPEG file;"),
    (b"89504e470d0a1a0a0000000d49484452", "hexadecimal text of a PNG file;"),
    (b"00000000: ffd8 ffe0 0010 4a46 4946 0001", "a hex dump of a JPEG file;"),
    (
        b"00000000  ff d8 ff e0 00 10 4a 46  49 46",
        "a hex dump of a JPEG file;",
    ),
    (b"0123456789abcdef0123456789abcdef0123", "hexadecimal text; "),
    (b"[255, 216, 255, 224, 0, 16]", "a list of the numbers of a JPEG file;"),
    (b"255,216,255,224,0,16,74,70", "a list of the numbers of a JPEG file;"),
    (
        b"array('B', [137, 80, 78, 71, 13, 10, 26, 10])",
        "a list of the numbers of a PNG file;",
    ),
    (b"[[[0.12, 0.5, 0.25], [1e-3, 0, 1]]]", "numbers as text;"),
    (b"<Buffer ff d8 ff e0 00 10>", "the printed form of a Node.js Buffer;"),
    (
        b"{\"type\":\"Buffer\",\"data\":[255,216,255]}",
        "a Node.js Buffer as JSON;",
    ),
    (b"[object ArrayBuffer]", "the printed form of a JavaScript object;"),
    (b"<_io.BytesIO object at 0x7f>", "the printed form of a Python object;"),
    (b"begin 644 a.jpg\nM_]C_X", "uuencoded text;"),
    // Bytes changed on the way.
    (
        b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\0\x10JFIF",
        "binary read as UTF-8",
    ),
    (b"\xef\xbf\xbdPNG\r\n\x1a\n", "binary read as UTF-8"),
    (b"\xc3\xbf\xc3\x98\xc3\xbf\xc3\xa0\0\x10JFIF", "binary read as Latin-1"),
    (b"\xc2\x89PNG\r\n\x1a\n", "binary read as Latin-1"),
    (b"????\0\x10JFIF\0", "binary read as ASCII"),
    (b"?PNG\r\n\x1a\n", "binary read as ASCII"),
    (b"\x89PNG\n\x1a\n\0\0", "a PNG file whose line ends"),
    (b"\x89PNG\r\r\n\x1a\r\n", "a PNG file whose line ends"),
    (b"\xff\0\xd8\0\xff\0\xe0\0", "a file with each byte widened"),
    (b"\0\x10JFIF\0\x01\x01", "a JPEG file whose first bytes are lost"),
    (b"\x1a\n\0\0\0\x0dIHDR\0\0", "a PNG file whose first bytes are lost"),
    // Text.
    (b"<!DOCTYPE html>\n<html>", "an HTML page;"),
    (b"\xef\xbb\xbf\r\n<HTML><body>", "an HTML page;"),
    (b"<!-- x --><html lang=en><head>", "an HTML page;"),
    (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "an SVG drawing;"),
    (b"<?xml version=\"1.0\"?>\n<svg width=\"8\"/>", "an SVG drawing;"),
    (
        b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>",
        "an XML error document;",
    ),
    (b"<?xml version=\"1.0\"?><a/>", "an XML document;"),
    (b"{\"error\": {\"code\": 404}}", "a JSON error document;"),
    (b"{\"image\": \"/9j/4AAQSkZJRg\"}", "JSON with a picture in base64;"),
    (b"{\"v\":\"5.5\",\"fr\":30,\"layers\":[]}", "a Lottie animation;"),
    (b"{\"image\": 3}", "JSON text;"),
    (b"null", "the text of an empty value;"),
    (b"undefined", "the text of an empty value;"),
    (b" \r\n ", "white space and nothing else;"),
    (b"https://example.org/a.jpg?x=1\n", "a URL;"),
    (b"s3://bucket/key", "a URL;"),
    (b"/home/me/cat.jpg", "a file's name;"),
    (b"C:\\Users\\me\\My cat.png", "a file's name;"),
    (b"cat.jpeg", "a file's name;"),
    (b"a,b,c\n1,2,3\n", "CSV text;"),
    (b"Hello, here is my picture.", "plain text;"),
    ("Фото кота".as_bytes(), "plain text;"),
    (b"\xff\xfeh\0e\0l\0l\0o\0", "UTF-16 text;"),
    (b"h\0e\0l\0l\0o\0", "UTF-16 text;"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer;"),
    (
        b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\xff\xe0",
        "an HTTP response with its header with a",
    ),
    (
        b"--X\r\nContent-Disposition: form-data\r\n\r\n\xff\xd8\xff\xe0",
        "a multipart form with a JPEG file from byte 39;",
    ),
    (b"/* XPM */\nstatic char *x[]", "an XPM picture;"),
    (b"#define x_width 8\n#define x_height 8", "an XBM picture;"),
    (b"P3\n2 2\n255\n0 0 0", "a Netpbm picture"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript or EPS file;"),
    // Binary formats.
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC picture;"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF picture;"),
    (
        b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom",
        "a Canon camera's raw file (CR3);",
    ),
    (b"\0\0\0\x18ftypisom\0\0\x02\0isom", "an MP4 video;"),
    (b"\0\0\0\x14ftypqt  \0\0\0\0", "a QuickTime video;"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture;"),
    (b"RIFF\x24\0\0\0WAVEfmt ", "WAVE audio;"),
    (b"RIFF\x24\0\0\0AVI LIST", "an AVI video;"),
    (b"RIFF\x24\0\0\0ACONLIST", "an animated Windows cursor"),
    (b"RIFF\x24\0\0\0abcd", "a RIFF file that is not WebP;"),
    (b"RIFF\xef\xbf\xbd\0\0\0WEBPVP8 ", "a WebP file whose first bytes"),
    (b"II*\0\x08\0\0\0\x01\0", "a TIFF picture;"),
    (b"MM\0*\0\0\0\x08\0\x01", "a TIFF picture;"),
    (b"II*\0\x10\0\0\0CR\x02\0", "a Canon camera's raw file (CR2);"),
    (
        b"MM\0*\0\0\0\x08\0\x01\xc6\x12\0\x01\0\0\0\x04\x01\x04\0\0",
        "a camera's raw file (DNG);",
    ),
    (b"PK\x03\x04\x14\0\0\0\0\0", "a ZIP archive;"),
    (b"\0\0\x02\0\x01\0\x20\x20\0\0\0\0", "a Windows cursor (CUR);"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "a WebM video;"),
    (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", "a safetensors file;"),
    (
        b"\x80\x04\x95\x10\0\0\0\0\0\0\0C\x10\xff\xd8\xff\xe0",
        "a Python pickle with a JPEG file from byte 13;",
    ),
    (b"\xff\xfb\x90\x64\0\0", "MP3 audio;"),
    (
        b"\x28\0\0\0\x08\0\0\0\x08\0\0\0\x01\0\x18\0",
        "a bitmap without its file header",
    ),
    (
        b"unsigned char a[] = {0xff, 0xd8, 0xff, 0xe0}",
        "hexadecimal text of a JPEG file;",
    ),
    (b"\x78\x9c\x01\x02", "zlib data;"),
    (&[0; 40], "zero bytes;"),
    (&[0xff; 40], "one repeated byte;"),
];

#[test]
fn short_inputs_are_named() {
    for (bytes, start) in INPUTS {
        let named = named(bytes);
        assert!(
            named.starts_with(start),
            "{} is named {named:?}, not {start:?}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn each_magic_number_is_found() {
    for (at, magic, what, _) in magic::MAGIC {
        let mut bytes = vec![1; 512];
        bytes[*at..at + magic.len()].copy_from_slice(magic);
        assert!(named(&bytes).starts_with(what), "{what} is named {:?}", named(&bytes));
    }
}

#[test]
fn pictures_further_in_are_found() {
    let long = [JPEG, &[7; 100]].concat();
    let length = [0, 0, 0, long.len() as u8];
    assert_eq!(
        named(&[&b"\r\n"[..], &long].concat()),
        "white space with a JPEG file from byte 2; send the file from there on"
    );
    assert!(
        named(&[b"\xef\xbb\xbf", PNG].concat())
            .starts_with("a byte order mark (EF BB BF) with a PNG file from byte 3;")
    );
    assert!(
        named(&[&[0x0a, long.len() as u8], &long[..]].concat())
            .starts_with("a serialized protobuf message with a JPEG")
    );
    assert!(
        named(&[&[0], &length[..], &long].concat()).starts_with("a gRPC message with its 5-byte prefix with a JPEG")
    );
    assert!(named(&[&[9, 8, 7, 6], &long[..]].concat()).starts_with("unknown bytes with a JPEG file from byte 4;"));
}

#[test]
fn tga_is_known_by_its_header_or_its_end() {
    let mut tga = [
        &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 24, 0x20][..],
        &[9; 36],
    ]
    .concat();
    assert!(named(&tga).starts_with("a TGA picture;"));
    tga[16] = 23;
    assert_eq!(named(&tga), "");
    tga.extend_from_slice(b"TRUEVISION-XFILE.\0");
    assert!(named(&tga).starts_with("a TGA picture;"));
}

#[test]
fn unknown_bytes_have_no_name_but_raw_pixels() {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut blob: Vec<u8> = (0..150_528).map(|_| noise.next() as u8).collect();
    blob[..4].copy_from_slice(&[0x9b, 0xee, 0x31, 0xc7]);
    assert!(named(&blob).starts_with("as long as the raw pixels"));
    assert_eq!(named(&blob[..5000]), "");
    assert_eq!(named(&blob[..3]), "");
    assert_eq!(
        named(b""),
        "white space and nothing else; send the bytes of a picture file"
    );
}

/// Random bytes after the first bytes of known formats.
#[test]
fn no_bytes_make_it_panic() {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let starts = [
        &b"RIFF"[..],
        b"\0\0\0\x18ftyp",
        b"II*\0",
        b"PK\x03\x04",
        b"data:",
        b"b'",
        b"[",
        b"00000000: ",
        b"{\"",
        b"<",
    ];
    for round in 0..20_000 {
        let mut bytes = match round % 3 {
            0 => starts[noise.next() as usize % starts.len()].to_vec(),
            1 => magic::MAGIC[noise.next() as usize % magic::MAGIC.len()].1.to_vec(),
            _ => Vec::new(),
        };
        let printed = noise.next().is_multiple_of(2);
        for _ in 0..noise.next() % 200 {
            let byte = noise.next() as u8;
            bytes.push(if printed { b' ' + byte % 95 } else { byte });
        }
        bytes.truncate(noise.next() as usize % (bytes.len() + 1));
        let _ = named(&bytes);
    }
}

/// A xorshift generator of pseudorandom numbers.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}
