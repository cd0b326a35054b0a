//! The magic numbers of formats that are not supported.

use super::{BINARY, CONVERT, Foreign, PIXELS};

pub(super) const FRAME: &str = "send one frame of it as JPEG or PNG";
pub(super) const NO_PICTURE: &str = "it holds no picture; send a JPEG, PNG, WebP, GIF or BMP file";
pub(super) const UNPACK: &str = "unpack it and send the picture file in it";
pub(super) const HEIC: Foreign = Foreign::new("a HEIC picture", CONVERT);
pub(super) const AVIF: Foreign = Foreign::new("an AVIF picture", CONVERT);
const RENDER: &str = "render it to PNG";

/// Names the format of `head` by [`MAGIC`].
pub(super) fn name(head: &[u8]) -> Option<Foreign> {
    let (_, _, what, advice) = MAGIC
        .iter()
        .find(|(at, magic, ..)| head.get(*at..).is_some_and(|b| b.starts_with(magic)))?;
    let foreign = Foreign::new(what, advice);
    Some(if *advice == BINARY {
        foreign.around(head)
    } else {
        foreign
    })
}

/// The offset, the bytes there, the kind of file and what to do about it.
#[rustfmt::skip]
pub(super) const MAGIC: &[(usize, &[u8], &str, &str)] = &[
    // Pictures.
    (0, b"\xff\x0a", "a JPEG XL picture", CONVERT),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture", CONVERT),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", CONVERT),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", CONVERT),
    (0, b"II\xbc", "a JPEG XR picture", CONVERT),
    (0, b"BPG\xfb", "a BPG picture", CONVERT),
    (0, b"FLIF", "a FLIF picture", CONVERT),
    (0, b"qoif", "a QOI picture", CONVERT),
    (0, b"DDS |\0\0\0", "a DDS texture", CONVERT),
    (0, b"\xabKTX ", "a KTX texture", CONVERT),
    (0, b"\x13\xab\xa1\x5c", "an ASTC texture", CONVERT),
    (0, b"PVR\x03", "a PVR texture", CONVERT),
    (0, b"8BPS\0", "a Photoshop file", CONVERT),
    (0, b"BLP1", "a BLP texture", CONVERT),
    (0, b"BLP2", "a BLP texture", CONVERT),
    (0, b"DanM", "a Microsoft Paint 1 picture (MSP)", CONVERT),
    (0, b"LinS", "a Microsoft Paint 2 picture (MSP)", CONVERT),
    (0, b"Image type: ", "an IFUNC picture (IM)", CONVERT),
    (0, b"gimp xcf ", "a GIMP file (XCF)", CONVERT),
    (0, b"icns", "a Mac icon (ICNS)", "send the picture in it as PNG"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture", CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR picture", CONVERT),
    (0, b"#?RGBE", "a Radiance HDR picture", CONVERT),
    (0, b"SDPX", "a DPX picture", CONVERT),
    (0, b"XPDS", "a DPX picture", CONVERT),
    (0, b"\x80\x2a\x5f\xd7", "a Cineon picture", CONVERT),
    (0, b"\x01\xda\x00\x01", "an SGI picture", CONVERT),
    (0, b"\x01\xda\x01\x01", "an SGI picture", CONVERT),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster picture", CONVERT),
    (0, b"\x8aMNG\r\n\x1a\n", "an MNG animation", FRAME),
    (0, b"\x8bJNG\r\n\x1a\n", "a JNG picture", CONVERT),
    (0, b"II+\0\x08\0", "a BigTIFF picture", CONVERT),
    (0, b"MM\0+\0\x08", "a BigTIFF picture", CONVERT),
    // Raw files of cameras, except those that are TIFF (see `header::tiff`).
    (0, b"FUJIFILMCCD-RAW", "a Fujifilm camera's raw file (RAF)", CONVERT),
    (0, b"IIRO", "an Olympus camera's raw file (ORF)", CONVERT),
    (0, b"IIRS", "an Olympus camera's raw file (ORF)", CONVERT),
    (0, b"MMOR", "an Olympus camera's raw file (ORF)", CONVERT),
    (0, b"IIU\0", "a Panasonic camera's raw file (RW2)", CONVERT),
    (0, b"\0MRM", "a Minolta camera's raw file (MRW)", CONVERT),
    (0, b"FOVb", "a Sigma camera's raw file (X3F)", CONVERT),
    // Drawings and pages.
    (0, b"%PDF-", "a PDF document", RENDER),
    (0, b"\xef\xbb\xbf%PDF-", "a PDF document", RENDER),
    (0, b"%!PS", "a PostScript or EPS file", RENDER),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file", RENDER),
    (0, b"AT&TFORM", "a DjVu document", RENDER),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)", RENDER),
    (0, b"\x01\0\x09\0\0\x03", "a Windows metafile (WMF)", RENDER),
    (40, b" EMF", "a Windows metafile (EMF)", RENDER),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document", "save its page or picture as PNG and send that"),
    (0, b"{\\rtf", "an RTF document", "save its page or picture as PNG and send that"),
    // Science and medicine.
    (128, b"DICM", "a DICOM file", "export the picture as PNG"),
    (0, b"SIMPLE  =", "a FITS file", CONVERT),
    (344, b"n+1\0", "a NIfTI volume", "send a slice of it as PNG"),
    (344, b"ni1\0", "a NIfTI volume", "send a slice of it as PNG"),
    (4, b"n+2\0\r\n\x1a\n", "a NIfTI volume", "send a slice of it as PNG"),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", PIXELS),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", PIXELS),
    (4, b"\0\0\0\0{\"", "a safetensors file", PIXELS),
    (0, b"CDF\x01", "a NetCDF file", PIXELS),
    (0, b"CDF\x02", "a NetCDF file", PIXELS),
    (0, b"ARROW1\0\0", "an Arrow file", PIXELS),
    (0, b"PAR1", "a Parquet file", PIXELS),
    (0, b"GGUF", "a GGUF model", NO_PICTURE),
    (0, b"\x80\x02}q", "a Python pickle", BINARY),
    (0, b"\x80\x02c", "a Python pickle", BINARY),
    (0, b"\x80\x03B", "a Python pickle", BINARY),
    (0, b"\x80\x03C", "a Python pickle", BINARY),
    (0, b"\x80\x03c", "a Python pickle", BINARY),
    (0, b"\x80\x03}q", "a Python pickle", BINARY),
    (0, b"\x80\x04\x95", "a Python pickle", BINARY),
    (0, b"\x80\x04B", "a Python pickle", BINARY),
    (0, b"\x80\x05\x95", "a Python pickle", BINARY),
    (0, b"\x80\x05B", "a Python pickle", BINARY),
    // Archives and compressed files.
    (0, b"\x1f\x8b\x08", "gzip data", UNPACK),
    (0, b"BZh91AY&SY", "bzip2 data", UNPACK),
    (4, b"1AY&SY", "bzip2 data", UNPACK),
    (0, b"\xfd7zXZ\0", "xz data", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard data", UNPACK),
    (0, b"\x04\x22\x4d\x18", "LZ4 data", UNPACK),
    (0, b"LZIP\x01", "lzip data", UNPACK),
    (0, b"\x78\x01", "zlib data", UNPACK),
    (0, b"\x78\x9c", "zlib data", UNPACK),
    (0, b"\x78\xda", "zlib data", UNPACK),
    (0, b"\x1f\x9d", "compress (.Z) data", UNPACK),
    (0, b"\xff\x06\0\0sNaPpY", "Snappy data", UNPACK),
    (0, b"\x5d\0\0", "LZMA data", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"PK\x05\x06", "an empty ZIP archive", UNPACK),
    (0, b"MSCF\0\0\0\0", "a Windows cabinet file", UNPACK),
    // Video and audio.
    (0, b"\0\0\x01\xba", "an MPEG video", FRAME),
    (0, b"\0\0\x01\xb3", "an MPEG video", FRAME),
    (4, b"moov", "a QuickTime video", FRAME),
    (4, b"mdat", "a QuickTime video", FRAME),
    (4, b"wide\0", "a QuickTime video", FRAME),
    (0, b"FLV\x01", "an FLV video", FRAME),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file", FRAME),
    (0, b"DKIF", "an IVF video", FRAME),
    (0, b"YUV4MPEG2", "a YUV4MPEG video", FRAME),
    (0, b".RMF\0", "a RealMedia file", FRAME),
    (0, b"OggS\0", "an Ogg audio or video file", NO_PICTURE),
    (0, b"ID3\x02", "MP3 audio", NO_PICTURE),
    (0, b"ID3\x03", "MP3 audio", NO_PICTURE),
    (0, b"ID3\x04", "MP3 audio", NO_PICTURE),
    (0, b"fLaC", "FLAC audio", NO_PICTURE),
    (0, b"MThd", "MIDI music", NO_PICTURE),
    (0, b"#!AMR", "AMR audio", NO_PICTURE),
    // Files that are often beside pictures on a disk, and other mistakes.
    (0, b"\0\x05\x16\x07", "a Mac's AppleDouble file (`._` before the name)", "send the picture beside it"),
    (0, b"bplist00", "a binary property list", NO_PICTURE),
    (0, b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut (.lnk)", "send the file that it points to"),
    (0, b"Salted__", "a file encrypted by OpenSSL", "decrypt it and send the picture"),
    (0, b"SQLite format 3\0", "a SQLite database", NO_PICTURE),
    (0, b"\x7fELF", "a program", NO_PICTURE),
    (0, b"MZ\x90\0", "a Windows program", NO_PICTURE),
    (0, b"\xcf\xfa\xed\xfe", "a Mac program", NO_PICTURE),
    (0, b"\0asm", "a WebAssembly module", NO_PICTURE),
    (0, b"wOFF", "a font", NO_PICTURE),
    (0, b"wOF2", "a font", NO_PICTURE),
    (0, b"OTTO\0", "a font", NO_PICTURE),
    (0, b"\0\x01\0\0\0", "a font", NO_PICTURE),
];
