//! `head doctor` finds the preprocessing with which the fixtures' heads were made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use headswap_proto::ClassifyRequest;
use headswap_proto::classify_request::Input;
use headswap_spec::Preprocessing;
use serde_json::Value;

use crate::support::Server;
use crate::support::fixture_heads::{BACKBONE, FixtureHead, fixture_heads, keras_heads};
use crate::support::program::Ran;

/// Pictures of a training set.
const PICTURES: u32 = 20;

fn head(file: &str) -> FixtureHead {
    let mut heads = fixture_heads().into_iter().chain(keras_heads());
    heads.find(|head| head.file == file).unwrap()
}

/// Writes what the framework answered as a CSV file, with `change` of each number.
fn answers(folder: &Path, head: &FixtureHead, change: impl Fn(usize, f32) -> f32) -> String {
    let mut csv = String::from("path,answers\n");
    for (photograph, expected) in &head.answers {
        let path = fs::canonicalize(format!("images/{photograph}")).unwrap();
        let _ = write!(csv, "{}", path.display());
        for (index, number) in expected.outputs.iter().enumerate() {
            let _ = write!(csv, ",{}", change(index, *number));
        }
        csv.push('\n');
    }
    let path = folder.join("answers.csv");
    fs::write(&path, csv).unwrap();
    path.display().to_string()
}

/// What is found out of a head on the fixtures' backbone.
fn diagnosed(args: &[&str]) -> Value {
    let ran = Ran::of(&[&["head", "doctor", "--json"], args].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn preprocessing(json: &Value) -> Preprocessing {
    Preprocessing::from_json(&json["preprocessing"].to_string()).unwrap()
}

/// The fixtures' own answers single out how their pictures were prepared: by torchvision, OpenCV's order, CIFAR's size, Keras's
/// and TensorFlow's filters, a graph that scales its pictures. What is found can be pushed, and answers as the framework.
#[tokio::test(flavor = "multi_thread")]
async fn the_frameworks_answers_tell_how_pictures_were_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let mut client = server.classifier().await;
    for file in [
        "wrapped.pth",
        "stack_last.pth",
        "scripted.pt",
        "small.pth",
        "scaled.keras",
        "top.h5",
    ] {
        let head = head(file);
        let expected = answers(dir.path(), &head, |_, number| number);
        let spec = dir.path().join("found.json").display().to_string();
        let found = diagnosed(&[
            &head.path(),
            "--expected",
            &expected,
            "--save-spec",
            &spec,
            "--weights",
            BACKBONE,
        ]);
        assert_eq!(found["verdict"], "sure", "{file}: {}", found["says"]);
        assert_eq!(preprocessing(&found["spec"]), preprocessing(&head.spec), "{file}");
        let pushed = [
            "head",
            "replace",
            head.name(),
            &head.path(),
            "--spec",
            &spec,
            "--admin-address",
            &server.admin,
        ];
        assert_eq!(Ran::of(&pushed).code, Some(0), "{file}");
        for photograph in head.answers.keys() {
            let request = ClassifyRequest {
                input: Some(Input::Image(fs::read(format!("images/{photograph}")).unwrap().into())),
                heads: vec![head.name().to_owned()],
                top_k: 10_000,
                include_logits: true,
                ..Default::default()
            };
            let answer = client.classify(request).await.unwrap().into_inner();
            head.check(photograph, &answer.results[0]);
        }
    }
}

#[test]
fn what_no_recipe_explains_fits_none() {
    let dir = tempfile::tempdir().unwrap();
    let head = head("wrapped.pth");
    let expected = answers(dir.path(), &head, |index, number| {
        number + if index == 0 { 0.2 } else { -0.05 }
    });
    let found = diagnosed(&[&head.path(), "--expected", &expected, "--weights", BACKBONE]);
    assert_eq!(found["verdict"], "none fits", "{}", found["says"]);
}

/// Crops of the photographs, sorted into directories by what a server answers to the head with its right spec.
async fn sorted_pictures(server: &Server, head: &str, root: &Path) -> BTreeMap<String, usize> {
    let mut client = server.classifier().await;
    let mut counts = BTreeMap::new();
    let photographs = ["chelsea.png", "coffee.png"];
    for number in 0..PICTURES {
        let photograph = image::open(format!("images/{}", photographs[number as usize % 2])).unwrap();
        let (width, height) = (photograph.width(), photograph.height());
        let part = 35 + number * 3 % 50;
        let crop = photograph.crop_imm(
            number * 7 % (width / 3),
            number * 11 % (height / 3),
            width * part / 100,
            height * (85 - part / 2) / 100,
        );
        let mut png = std::io::Cursor::new(Vec::new());
        crop.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let png = png.into_inner();
        let request = ClassifyRequest {
            input: Some(Input::Image(png.clone().into())),
            heads: vec![head.to_owned()],
            top_k: 1,
            ..Default::default()
        };
        let answer = client.classify(request).await.unwrap().into_inner();
        let class = format!("class {}", answer.results[0].predictions[0].index);
        fs::create_dir_all(root.join(&class)).unwrap();
        fs::write(root.join(&class).join(format!("{number:02}.png")), png).unwrap();
        *counts.entry(class).or_default() += 1;
    }
    counts
}

/// Of a head alone, by this process and by a server, whose backbone has the convolutions.
#[tokio::test(flavor = "multi_thread")]
async fn sorted_pictures_tell_how_pictures_were_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_with(BACKBONE, &dir.path().join("heads"), &[]);
    let head = head("stack_last.pth");
    head.push(&server.admin, dir.path());
    let pictures = dir.path().join("pictures");
    let counts = sorted_pictures(&server, head.name(), &pictures).await;
    assert!(counts.len() > 1, "{counts:?}");
    // Every class has a directory, as in training.
    for class in 0..head.answers.values().next().unwrap().outputs.len() {
        fs::create_dir_all(pictures.join(format!("class {class}"))).unwrap();
    }
    let pictures = pictures.display().to_string();
    let page = dir.path().join("page.html");
    let own = diagnosed(&[
        "--precision",
        "f32",
        "--weights",
        BACKBONE,
        &head.path(),
        "--pictures",
        &pictures,
        "--explain",
        &page.display().to_string(),
    ]);
    let best = &own["candidates"][0];
    assert_eq!(best["right"], PICTURES, "{}", own["says"]);
    let is_right = |candidate: &&Value| preprocessing(candidate) == preprocessing(&head.spec);
    let right = own["candidates"].as_array().unwrap().iter().find(is_right).unwrap();
    assert_eq!((&right["right"], &right["excluded"]), (&PICTURES.into(), &false.into()));
    assert!(own["verdict"] != "sure" || right["alike"] == true, "{}", own["says"]);
    assert!(fs::read_to_string(page).unwrap().contains("data:image/"));

    let asked = [
        "--against-server",
        "--address",
        &server.grpc,
        "--admin-address",
        &server.admin,
    ];
    let asked = diagnosed(&[&[&head.path(), "--pictures", &pictures], &asked[..]].concat());
    assert_eq!(asked["candidates"][0]["preprocessing"], best["preprocessing"]);
}

#[test]
fn what_cannot_be_diagnosed_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let (wrapped, bottleneck) = (head("wrapped.pth").path(), head("bottleneck.h5").path());
    let folder = root.display().to_string();
    let doctor = |args: &[&str]| Ran::of(&[&["head", "doctor"], args].concat());
    doctor(&[&wrapped, "--pictures", &folder]).failed(2, "one for each class");
    fs::create_dir(root.join("cat")).unwrap();
    fs::copy("images/chelsea.png", root.join("cat/1.png")).unwrap();
    doctor(&[&wrapped, "--pictures", &folder]).failed(1, "give --labels");
    let csv = root.join("a.csv");
    let csv_of = |text: &str| {
        fs::write(&csv, text).unwrap();
        csv.display().to_string()
    };
    doctor(&[&wrapped, "--expected", &csv_of("path,class\nmissing.png,cat\n")]).failed(2, "there is no picture");
    doctor(&[&wrapped, "--expected", &csv_of("path\ncat/1.png\n")]).failed(2, "one column");
    doctor(&[&wrapped, "--expected", &csv_of("cat/1.png,0.5,x\n")]).failed(2, "`x` is not a number");
    doctor(&[&wrapped, "--expected", &csv_of("cat/1.png,1,2,3,4,5,6\n")]).failed(2, "6 numbers and the head 5 outputs");
    doctor(&[&wrapped, "--expected", &csv_of("path,class\n")]).failed(2, "names no pictures");
    let expected = csv_of("cat/1.png,0.5,0.5\n");
    doctor(&[&bottleneck, "--expected", &expected]).failed(1, "--weights FILE");
    fs::write(root.join("cat/1.png"), b"no picture").unwrap();
    let known = csv_of("cat/1.png,0.1,0.2,0.3,0.2,0.2\n");
    doctor(&[&wrapped, "--expected", &known]).failed(1, "1.png");
}
