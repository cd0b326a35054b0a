//! `headswap head doctor`: finds out how a head's pictures were prepared.

mod explain;
mod known;
mod network;
mod patient;
mod readings;
mod report;
mod server_network;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use headswap_checkpoint::NormalHead;
use headswap_doctor::{Evidence, Search, diagnose};
use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, Precision, TorchRuntime, WeightsSource};

use self::known::Known;
use self::network::{LocalNetwork, Network, Question};
use self::patient::Patient;
use self::report::Found;
use self::server_network::{ServerNetwork, without_backbones};
use super::spec_args::SpecArgs;
use super::target::Target;
use crate::commands::address::{Address, AdminAddress};
use crate::commands::error::CliError;
use crate::commands::output::{note, progress, spinner};

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap head doctor finetuned.pth --pictures validation          a directory for each class
  headswap head doctor finetuned.h5 --expected answers.csv          what Keras answered
  headswap head doctor last_layer.pth --weights vgg16.pth --pictures validation
  headswap head doctor last_layer.pth --against-server --pictures validation
  headswap head doctor finetuned.pth --pictures validation --explain differences.html

Twenty pictures of several classes do. An answers.csv has a picture's path on each line, and then its
class, or what the training framework answered for it: all probabilities, or values. Numbers tell more
than classes: with them, two recipes that differ in the filter alone are told apart.

What the file and the flags say of layers and outputs is taken as given, and a --preprocessing is
tried first; the rest is found out: sizes, resizing, cropping, filters,
channels, normalisation, layers and outputs, and the order of the classes. The file itself is sent\nnowhere; with --against-server the pictures go to that server.";

/// Pictures that are computed in a search, about; only for the progress bar.
const EXPECTED_PICTURES: u64 = 1500;

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// A file of weights: a whole fine-tuned VGG16, or a head
    file: PathBuf,
    /// Pictures whose classes are known: a directory with a directory for each class
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "expected",
        conflicts_with = "expected"
    )]
    pictures: Option<PathBuf>,
    /// A CSV file of pictures and what the training framework answered: a class, or numbers
    #[arg(long, value_name = "FILE.csv")]
    expected: Option<PathBuf>,
    /// Pictures that are used at most, of all classes alike
    #[arg(long, value_name = "N", default_value = "40", value_parser = clap::value_parser!(u32).range(4..=1000))]
    limit: u32,
    /// The least part of the pictures that the right recipe is expected to get right
    #[arg(long, value_name = "PART", default_value_t = 0.8, value_parser = part)]
    accuracy: f64,
    /// The backbone's weights, for a file without convolutions
    #[arg(long, value_name = "FILE", conflicts_with = "against_server")]
    weights: Option<WeightsSource>,
    /// Let a running server compute what the file shares with its backbone
    #[arg(long)]
    against_server: bool,
    /// auto, cpu, cuda (every GPU) or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// Numbers that are multiplied [default: int16 on the CPU, bf16 on a GPU]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// The head's name in the command that is printed
    #[arg(long, default_value = "NAME", hide_default_value = true)]
    name: String,
    /// Write the spec that fits best to a file
    #[arg(long, value_name = "FILE.json")]
    save_spec: Option<PathBuf>,
    /// Write an HTML page of the pictures on which the two best recipes disagree
    #[arg(long, value_name = "FILE.html")]
    explain: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    address: Address,
    #[command(flatten)]
    admin_address: AdminAddress,
}

impl DoctorArgs {
    /// What this process computes with.
    pub fn backend(&self) -> BackendSettings {
        BackendSettings {
            backend: BackendChoice::Auto,
            device: self.device,
            precision: self.precision.unwrap_or(Precision::Auto),
            threads: None,
            pin_threads: false,
        }
    }
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "use a number from 0 to 1".to_owned())
}

pub(super) async fn run(args: DoctorArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), CliError> {
    let patient = Patient::open(&args)?;
    let reading = spinner("reading the file");
    let heads = patient.read(&args);
    reading.finish_and_clear();
    let heads = heads?;
    let rows = heads.first().map_or(0, |head| head.classes);
    let labels = heads.first().map(|head| head.labels.clone()).unwrap_or_default();
    let limit = args.limit as usize;
    let known = match (&args.pictures, &args.expected) {
        (Some(directory), _) => Known::of_directory(directory, limit)?,
        (None, Some(file)) => Known::of_csv(file, rows, limit)?,
        (None, None) => return Err(CliError::Usage("give --pictures or --expected".into())),
    };
    let orders = known.orders(&labels, rows);
    if orders.is_empty() {
        return Err(CliError::Failed(format!(
            "there are {} classes ({}) and {rows} outputs; give --labels with a label for each output",
            known.names.len(),
            super::listed(&known.names)
        )));
    }
    if !known.names.is_empty() && known.pictures.len() < PICTURES_FEW {
        note(format_args!(
            "{} pictures tell little; twenty of several classes do",
            known.pictures.len()
        ));
    }
    let mut evidence = Evidence::new(known.truths.clone(), orders, Vec::new());
    evidence.outputs = patient.outputs(rows, evidence.has_numbers())?;
    let mut network = match args.against_server {
        true => Network::Server(Box::new(ask_server(&args, &patient, heads, &known).await?)),
        false => Network::Local(open_network(&args, &patient, heads, &known, torch)?),
    };
    let search = look(&patient, &mut network, &mut evidence).await?;
    let diagnosis = diagnose(&evidence, &patient.space, search.tried(), args.accuracy);
    let found = Found {
        args: &args,
        patient: &patient,
        known: &known,
        evidence: &evidence,
        diagnosis: &diagnosis,
        tried: search.count(),
        classes: rows,
    };
    if let Some(path) = &args.save_spec {
        found.save_spec(path)?;
    }
    if let Some(path) = &args.explain {
        explain::write(path, &patient, &known, &evidence, &diagnosis)?;
    }
    found.print(args.json)
}

/// Fewer pictures are said to be few.
const PICTURES_FEW: usize = 12;

fn open_network(
    args: &DoctorArgs,
    patient: &Patient,
    heads: Vec<NormalHead>,
    known: &Known,
    torch: Option<&dyn TorchRuntime>,
) -> Result<LocalNetwork, CliError> {
    if patient.inspection.convolutions == 0 && args.weights.is_none() {
        return Err(CliError::Failed(format!(
            "{} has no convolutions; give those of its backbone with --weights FILE",
            args.file.display()
        )));
    }
    let mut settings = args.backend();
    if torch.is_none() && settings.precision == Precision::Auto {
        settings.precision = Precision::Int16;
    }
    let opening = spinner("placing the network");
    let architecture = patient.inspection.architecture;
    let pictures = known
        .paths
        .iter()
        .cloned()
        .zip(known.pictures.iter().cloned())
        .collect();
    let opened = LocalNetwork::open(heads, architecture, args.weights.as_ref(), &settings, torch, pictures);
    opening.finish_and_clear();
    opened
}

/// Connects to a server whose backbone computes what the head stands on.
async fn ask_server(
    args: &DoctorArgs,
    patient: &Patient,
    mut heads: Vec<NormalHead>,
    known: &Known,
) -> Result<ServerNetwork, CliError> {
    let mut admin = args.admin_address.connect().await?;
    let file = patient.open_first(args)?;
    let target = Target::choose(&mut admin, &file, None).await?;
    file.check_architecture(&target.parameters)?;
    let architecture = patient.inspection.architecture;
    for head in &mut heads {
        let differing = without_backbones(head, architecture, &target.parameters);
        if !differing.is_empty() {
            return Err(CliError::Failed(format!(
                "{}: the server's backbone has other values of {}; run without --against-server",
                args.file.display(),
                super::listed(&differing)
            )));
        }
    }
    let inputs = patient.readings.iter().map(|reading| reading.input).collect();
    // The head's own layers do not depend on the convolutions below them.
    let settings = BackendSettings {
        device: DeviceChoice::Cpu,
        precision: Precision::F32,
        ..args.backend()
    };
    let own = LocalNetwork::open(
        heads,
        architecture,
        Some(&WeightsSource::Demo),
        &settings,
        None,
        Vec::new(),
    )?;
    let client = args.address.connect().await?;
    Ok(ServerNetwork::new(
        client,
        target.name,
        known.pictures.clone(),
        inputs,
        own,
    ))
}

/// Tries recipes until nothing better turns up.
async fn look(patient: &Patient, network: &mut Network, evidence: &mut Evidence) -> Result<Search, CliError> {
    let space = &patient.space;
    let mut search = Search::new(evidence.truths.len());
    let bar = progress(EXPECTED_PICTURES, "computing");
    let computed = AtomicUsize::new(0);
    loop {
        let promise = |recipe, pictures| evidence.promise(space, recipe, pictures);
        let trials = search.next(space, promise, |recipe| patient.stored(recipe).is_some());
        if trials.is_empty() {
            break;
        }
        let mut questions = Vec::new();
        for trial in &trials {
            let Some(preprocessing) = patient.stored(trial.recipe) else {
                continue;
            };
            for picture in trial.from..trial.to {
                questions.push(Question { picture, preprocessing });
            }
        }
        let expected = (computed.load(Ordering::Relaxed) + questions.len()) as u64;
        bar.set_length(bar.length().unwrap_or_default().max(expected));
        let count = |rows| {
            computed.fetch_add(rows, Ordering::Relaxed);
            bar.inc(rows as u64);
        };
        let mut answers = network.answer(&questions, &count).await?.into_iter();
        for trial in &trials {
            evidence.add(trial.recipe, answers.by_ref().take(trial.to - trial.from));
        }
    }
    bar.finish_and_clear();
    Ok(search)
}
