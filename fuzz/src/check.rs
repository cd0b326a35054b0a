//! What holds for any bytes read as weights: no panic, bounded memory, and tensors that match their entries.

use bytes::Bytes;

use crate::allocator::measure;
use headswap_checkpoint::{Checkpoint, inspect_head};

/// Limit of the memory beyond the input and the tensor, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit of the tensors that are read of one input. Thousands of the same would only be slow.
const TENSORS_MAX: usize = 64;

/// A key that some of the seeds have.
const KEY: &str = "model_ema";

/// Opens the bytes and reads their tensors. Returns true if the bytes are a checkpoint.
pub fn check(bytes: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(bytes);
    let (peak, _) = measure(|| Checkpoint::from_bytes_selecting(bytes.clone(), Some(KEY)));
    assert!(peak <= BYTES_MAX, "opening {} bytes took {peak}", bytes.len());
    let (peak, opened) = measure(|| Checkpoint::from_bytes(bytes.clone()));
    assert!(peak <= BYTES_MAX, "opening {} bytes took {peak}", bytes.len());
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.len() < 2000 && !message.contains(char::is_control),
                "{message:?}"
            );
            return false;
        }
    };
    if let Err(error) = inspect_head(&checkpoint, None) {
        let message = error.to_string();
        assert!(
            message.len() < 4000 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
    for entry in checkpoint.tensors().take(TENSORS_MAX) {
        let (peak, read) = measure(|| checkpoint.read(entry));
        let bytes = entry.elements() * size_of::<f32>();
        assert!(peak <= bytes + BYTES_MAX, "{} of {bytes} bytes took {peak}", entry.name);
        if let Ok(tensor) = read {
            assert_eq!(tensor.shape, entry.shape);
            assert_eq!(tensor.values.len(), entry.elements());
            assert!(tensor.values.iter().all(|value| value.is_finite()));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::archive;

    #[test]
    fn the_seeds_are_read() {
        for entry in std::fs::read_dir("../tests/fixtures/checkpoints").unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = std::fs::read(&path).unwrap();
            let (peak, opened) = measure(|| Checkpoint::from_bytes(bytes.clone().into()));
            let tensors = opened.map(|checkpoint| checkpoint.tensors().count());
            println!("{name}: {tensors:?}, {peak} bytes");
            assert!(check(&bytes), "{name}");
        }
    }

    #[test]
    fn files_of_training_scripts_stay_within_the_limit() {
        let mut seeds = 0;
        for entry in std::fs::read_dir("../tests/fixtures/pickles").unwrap() {
            let path = entry.unwrap().path();
            check(&std::fs::read(&path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 40, "{seeds}");
    }

    #[test]
    fn exports_of_onnx_are_read() {
        for entry in std::fs::read_dir("../tests/fixtures/onnx").unwrap() {
            let path = entry.unwrap().path();
            assert!(check(&std::fs::read(&path).unwrap()), "{path:?}");
        }
    }

    /// A field of protobuf.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        field.extend(bytes);
        field
    }

    /// An ONNX file of a graph with these fields, which returns `y`.
    fn model(graph: &[u8]) -> Vec<u8> {
        let graph = [graph, &field(12, &field(1, b"y"))].concat();
        [&b"\x08\x08"[..], &field(2, b"test"), &field(7, &graph)].concat()
    }

    /// A node of these inputs.
    fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
        let mut node = Vec::new();
        for input in inputs {
            node.extend(field(1, input.as_bytes()));
        }
        node.extend(field(2, output.as_bytes()));
        node.extend(field(4, operator.as_bytes()));
        field(1, &node)
    }

    /// Graphs that need much memory for their size.
    #[test]
    fn large_hostile_graphs_stay_within_the_limit() {
        const LARGE: usize = 8 * 1024 * 1024;
        let repeated = |field: &[u8]| model(&field.repeat(LARGE / field.len()));
        let mut input = field(1, b"x");
        let sizes = [field(1, b""), field(1, &[8, 16])].concat();
        input.extend(field(2, &field(1, &field(2, &sizes))));
        let mut chain = field(11, &input);
        let mut names = vec!["x".to_owned()];
        for index in 0..4000 {
            let to = if index == 3999 {
                "y".to_owned()
            } else {
                format!("{index:0400}")
            };
            chain.extend(node("Tanh", &[&names[index]], &to));
            names.push(to);
        }
        let many: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut branches = field(11, &input);
        for index in 0..4000 {
            branches.extend(node("Sigmoid", &["x"], &index.to_string()));
        }
        for graph in [
            repeated(&node("Relu", &["x"], "y")),
            repeated(&field(5, &field(8, b"w"))),
            repeated(&field(5, b"")),
            repeated(&field(11, b"")),
            repeated(&field(12, b"")),
            repeated(&field(1, &field(5, b""))),
            model(&field(1, &field(5, &[0x40, 0]).repeat(LARGE / 4))),
            model(&field(1, &field(5, &field(8, &vec![0; LARGE / 2])))),
            model(&field(1, &field(1, &vec![b'x'; 500]).repeat(LARGE / 503))),
            model(&field(1, &field(5, &field(5, &field(7, &vec![1; LARGE / 2]))))),
            model(&chain),
            model(&branches),
            model(&node("Concat", &many[..4000], "y")),
        ] {
            check(&graph);
        }
    }

    /// The size of a pickle just below the limit.
    const LARGE: usize = 8 * 1024 * 1024 - 16;

    /// Returns a pickle of as many repetitions of `opcodes` as fit.
    fn repeated(opcodes: &[u8]) -> Vec<u8> {
        [b"\x80\x02", &opcodes.repeat(LARGE / opcodes.len())[..], b"."].concat()
    }

    /// A dictionary whose seven lists of labels are one list, which refers to one text of 500 bytes.
    fn many_labels() -> Vec<u8> {
        let text = [b"X\xf4\x01\0\0", &[b'x'; 500][..], b"q\x01"].concat();
        let mut pickle = [&b"\x80\x02"[..], &text, b"0](", &b"h\x01".repeat(200_000), b"eq\x020}"].concat();
        for key in ["classes", "class_names", "labels"] {
            pickle.push(b'X');
            pickle.extend((key.len() as u32).to_le_bytes());
            pickle.extend(key.as_bytes());
            pickle.extend(b"h\x02s");
        }
        pickle.push(b'.');
        pickle
    }

    /// A state dict of 4096 names of 510 bytes for one tensor, beside a long list and as many labels as are kept.
    fn long_names() -> Vec<u8> {
        let mut pickle = b"\x80\x02}q\x01ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
        pickle.extend(b"ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\x04\0\0\0tQK\0K\x02K\x02\x86K\x02K\x01\x86\x89NtRq\x020");
        // h1 is the result; h2 is the tensor; h3 is the list.
        pickle.extend(b"](");
        pickle.extend(b"N".repeat(280_000));
        pickle.extend(b"eq\x030h\x01X\x04\0\0\0listh\x03sX\x07\0\0\0classes](");
        for label in 0..5_000 {
            pickle.extend(format!("X\x04\0\0\0{label:04}").into_bytes());
        }
        pickle.extend(b"es(");
        for name in 0..4096 {
            pickle.extend(b"X\xfe\x01\0\0");
            pickle.extend(format!("{name:0510}h\x02").into_bytes());
        }
        pickle.extend(b"u.");
        pickle
    }

    /// Modules of which each has the next as two hundred of its children: 200^30 paths.
    fn shared_modules() -> Vec<u8> {
        let mut pickle = b"\x80\x02N".to_vec();
        for _ in 0..30 {
            // The module before is memo 1. `_parameters` is empty, `_modules` holds it under 200 names.
            pickle.extend(b"q\x01ca\nb\n)\x81}(X\x0b\0\0\0_parameters}X\x08\0\0\0_modules}(");
            for child in 0..200 {
                pickle.extend(format!("X\x03\0\0\0{child:03}h\x01").into_bytes());
            }
            pickle.extend(b"uub");
        }
        pickle.push(b'.');
        pickle
    }

    /// Pickles that need much memory for their size. They are larger than those that a fuzzer makes.
    #[test]
    fn large_hostile_pickles_stay_within_the_limit() {
        let keys: Vec<u8> = (0..LARGE as u32 / 5)
            .flat_map(|key| [&b"r"[..], &key.to_le_bytes()].concat())
            .collect();
        let text = [
            b"X",
            &(LARGE as u32 / 2).to_le_bytes()[..],
            &vec![b'x'; LARGE / 2][..],
            b"q\0",
        ]
        .concat();
        let pickles = [
            repeated(b"]"),
            repeated(b"}"),
            repeated(b"("),
            repeated(b"N"),
            repeated(b"K\0\x85"),
            repeated(b"ctorch\nSize\n"),
            [b"\x80\x02N", &keys[..], b"."].concat(),
            [b"\x80\x02}", &text[..], &b"h\0h\0s".repeat(LARGE / 20), b"."].concat(),
            [&b"\x80\x02]q\0"[..], &b"h\0a".repeat(LARGE / 3), b"."].concat(),
            // Objects, states, and labels of one long list.
            repeated(b"ca\nb\n)\x81"),
            [&b"\x80\x02"[..], b"ca\nb\n)\x81", &b"}b".repeat(LARGE / 2), b"."].concat(),
            many_labels(),
            long_names(),
            shared_modules(),
        ];
        assert!(check(&archive(&long_names())));
        for pickle in &pickles {
            check(&archive(pickle));
            let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.";
            check(&[&magic[..], pickle].concat());
        }
    }

    /// Checks a safetensors file of this header and no data.
    fn check_header(header: String) -> bool {
        check(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
    }

    /// Returns a header of `count` empty tensors with names of `name_bytes` bytes.
    fn empty_tensors(count: usize, name_bytes: usize) -> String {
        let mut entries = Vec::new();
        for index in 0..count {
            entries.push(format!(
                r#""{index:0name_bytes$}":{{"dtype":"F32","shape":[0,1,2,3,4,5,6,7],"data_offsets":[0,0]}}"#
            ));
        }
        format!("{{{}}}", entries.join(","))
    }

    /// Safetensors headers that need much memory for their size.
    #[test]
    fn large_hostile_headers_stay_within_the_limit() {
        assert!(check_header(empty_tensors(4096, 500)));
        assert!(!check_header(empty_tensors(4097, 5)));
        let escaped = r"\n".repeat(2_000_000);
        assert!(check_header(format!(r#"{{"__metadata__":{{"labels":"{escaped}"}}}}"#)));
        let mut pairs = Vec::new();
        for index in 0..4096 {
            pairs.push(format!(r#""{index:0400}":"{escaped:.500}""#));
        }
        assert!(check_header(format!(r#"{{"__metadata__":{{{}}}}}"#, pairs.join(","))));
    }
}
