//! What is printed of a diagnosis.

use std::fs;
use std::path::Path;

use headswap_client::ClientError;
use headswap_doctor::{AGREES, Candidate, Diagnosis, Evidence, Geometry, Recipe, Verdict, half_width, interval};
use headswap_spec::{ChannelOrder, Output, Preprocessing, Preset, Resize, ResizeFilter, SpecDraft};
use serde_json::{Value, json};

use super::DoctorArgs;
use super::known::Known;
use super::patient::Patient;
use crate::commands::bench::name_of;
use crate::commands::error::CliError;
use crate::commands::output::{note, print_json, print_line, print_table, table};

/// Candidates that are printed.
const PRINTED: usize = 12;

/// A diagnosis, and what follows from it.
pub struct Found<'a> {
    pub args: &'a DoctorArgs,
    pub patient: &'a Patient,
    pub known: &'a Known,
    pub evidence: &'a Evidence,
    pub diagnosis: &'a Diagnosis,
    /// How many recipes were tried.
    pub tried: usize,
    /// The classes of the head.
    pub classes: usize,
}

impl Found<'_> {
    pub fn print(&self, as_json: bool) -> Result<(), CliError> {
        if as_json {
            return print_json(&self.to_json());
        }
        self.print_table()?;
        print_line(format_args!("\n{}", self.sentence()))?;
        for line in self.remarks() {
            print_line(line)?;
        }
        let Some(spec) = self.spec() else { return Ok(()) };
        if self.diagnosis.verdict == Verdict::NoneFits {
            return Ok(());
        }
        print_line(format_args!("\nspec      {}", json_of(&spec)))?;
        print_line(format_args!("push      {}", self.command()))
    }

    /// Writes the best spec to a file, unless none fits.
    pub fn save_spec(&self, path: &Path) -> Result<(), CliError> {
        let fits = self.diagnosis.verdict != Verdict::NoneFits;
        let Some(spec) = self.spec().filter(|_| fits) else {
            note(format_args!("no recipe fits, so {} is not written", path.display()));
            return Ok(());
        };
        let text = format!("{}\n", json_of(&spec));
        fs::write(path, text).map_err(|error| ClientError::unreadable(path, error).into())
    }

    fn best(&self) -> Option<&Candidate> {
        self.diagnosis.candidates.first()
    }

    fn print_table(&self) -> Result<(), CliError> {
        let mut rows = match self.evidence.has_numbers() {
            true => table(&["recipe", "agree", "largest difference", "mean", ""]),
            false => table(&["recipe", "right", "95 %", "log-loss", "probability", ""]),
        };
        for candidate in self.diagnosis.candidates.iter().take(PRINTED) {
            let name = self.describe(candidate);
            let (fit, remark) = (&candidate.fit, remark(candidate, self.best()));
            let of = format!("{}/{}", fit.count(), fit.hits.len());
            if self.evidence.has_numbers() {
                let [largest, mean] = [fit.largest(), fit.mean()].map(|value| format!("{value:.4}"));
                rows.add_row([name, of, largest, mean, remark.to_owned()]);
            } else {
                let [low, high] = interval(fit.count(), fit.hits.len()).map(|part| format!("{:.0}", part * 100.0));
                rows.add_row([
                    name,
                    of,
                    format!("{low}-{high}"),
                    format!("{:.2} ± {:.2}", -fit.mean(), half_width(&fit.each)),
                    format!("{:.2}", candidate.probability),
                    remark.to_owned(),
                ]);
            }
        }
        print_table(&rows)?;
        let more = self.diagnosis.candidates.len().saturating_sub(PRINTED);
        let excluded = self.tried - self.diagnosis.candidates.len();
        print_line(format_args!(
            "{} recipes tried on {} pictures; {more} more of them on all pictures, {excluded} were given up after the first few",
            self.tried,
            self.known.pictures.len()
        ))
    }

    /// The verdict in words.
    fn sentence(&self) -> String {
        let Some(best) = self.best() else {
            return "nothing could be tried".into();
        };
        let (name, fit) = (self.describe(best), &best.fit);
        let count = format!("{} of {} pictures", fit.count(), fit.hits.len());
        let chance = format!("{:.0} %", (self.diagnosis.probability * 100.0).min(99.0));
        match (self.diagnosis.verdict, self.evidence.has_numbers()) {
            (Verdict::Sure, true) => format!(
                "Sure: {name}. It agrees with the framework on all pictures, to {:.4}.",
                fit.largest()
            ),
            (_, true) => format!(
                "None fits: no recipe that was tried agrees with the framework to {AGREES} on all pictures. The nearest, {name}, \
                 does on {count}. Look for a step that is not among them, such as a crop or a mean of the script's own, and \
                 give it with --spec."
            ),
            (Verdict::Sure, false) => {
                format!("Sure: {name}. It gets {count} right, and every other recipe is significantly worse.")
            }
            (Verdict::Likely, false) => format!(
                "Likely, {chance}: {name}. It gets {count} right; others are not excluded. More pictures, or --expected with the \
                 framework's own answers, can make it sure."
            ),
            (Verdict::CannotTell, false) => format!(
                "These pictures cannot tell: several recipes fit as well as {name}, which gets {count} right. Give more pictures, \
                 or --expected with the framework's own answers."
            ),
            (Verdict::NoneFits, false) => format!(
                "None fits: the best recipe that was tried, {name}, gets {count} right, and at least {:.0} % are expected. Check \
                 the labels and their order; look for a step of the script's own; or say how good the network was in training, \
                 with --accuracy.",
                self.args.accuracy * 100.0
            ),
        }
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let Some(best) = self.best() else { return remarks };
        let alike: Vec<String> = self
            .diagnosis
            .candidates
            .iter()
            .skip(1)
            .filter(|other| other.alike)
            .map(|other| self.describe(other))
            .collect();
        if !alike.is_empty() {
            remarks.push(format!(
                "On these pictures {} alike to {AGREES}: {}",
                match alike.len() {
                    1 => "one answers",
                    _ => "others answer",
                },
                alike.join("; ")
            ));
        }
        let order = &self.evidence.orders[best.fit.order];
        if !self.known.names.is_empty() {
            remarks.push(format!("classes   in the order of {}", order.name));
        }
        if self.patient.readings.len() > 1 {
            let reading = &self.patient.readings[best.fit.reading];
            remarks.push(format!(
                "layers    input {}, {}",
                reading.input.name(),
                json!(reading.layers)
            ));
        }
        if self.evidence.has_numbers() && best.fit.output == Output::Linear && self.evidence.outputs.len() > 1 {
            remarks.push("output    the framework's answers are the logits themselves; give --output softmax or sigmoid if they are classes".into());
        }
        remarks
    }

    fn describe(&self, candidate: &Candidate) -> String {
        describe(self.patient, candidate)
    }

    /// What the logits mean, for the spec: what was given or found, not how the framework's answers were compared.
    fn output(&self, best: &Candidate) -> Output {
        let outputs = &self.evidence.outputs;
        match outputs.first() {
            Some(first) if outputs.len() == 2 && best.fit.output == Output::Linear && self.is_output_known() => *first,
            _ => best.fit.output,
        }
    }

    fn is_output_known(&self) -> bool {
        self.patient.given.keys.has("output") || self.patient.inspection.output.is_some()
    }

    /// The spec of the best recipe.
    fn spec(&self) -> Option<SpecDraft> {
        let best = self.best()?;
        let preprocessing = self.patient.space.preprocessing(best.fit.recipe);
        let reading = &self.patient.readings[best.fit.reading];
        let mut spec = self.patient.keys(&preprocessing, reading, self.output(best));
        if let Some(labels) = self.labels(best) {
            spec.set("labels", json!(labels));
        }
        Some(spec)
    }

    /// The classes' names in the order that was found, if there is one for each output.
    fn labels(&self, best: &Candidate) -> Option<Vec<String>> {
        let order = &self.evidence.orders[best.fit.order];
        let names = &self.known.names;
        let is_whole = names.len() == if self.classes == 1 { 2 } else { self.classes };
        if self.patient.given.keys.has("labels") || !is_whole {
            return None;
        }
        let mut labels = vec![None; names.len()];
        for (name, row) in names.iter().zip(&order.rows) {
            *labels.get_mut(*row)? = Some(name.clone());
        }
        labels.into_iter().collect()
    }

    /// The command that pushes the file with the spec.
    fn command(&self) -> String {
        let spec = match &self.args.save_spec {
            Some(path) => path.display().to_string(),
            None => "spec.json".to_owned(),
        };
        let hint = if self.args.save_spec.is_some() {
            ""
        } else {
            "    # the spec above, saved; or use --save-spec"
        };
        format!(
            "headswap head replace {} {} --spec {spec}{hint}",
            self.args.name,
            self.args.file.display()
        )
    }

    fn to_json(&self) -> Value {
        let mut candidates = Vec::new();
        for candidate in &self.diagnosis.candidates {
            let (fit, preprocessing) = (&candidate.fit, self.patient.space.preprocessing(candidate.fit.recipe));
            let [low, high] = interval(fit.count(), fit.hits.len());
            let mut line = json!({
                "recipe": self.describe(candidate), "preprocessing": preprocessing, "preset": preset(&preprocessing),
                "right": fit.count(), "pictures": fit.hits.len(), "accuracy": [low, high], "probability": candidate.probability,
                "alike": candidate.alike, "excluded": candidate.excluded, "output": fit.output,
            });
            if self.evidence.has_numbers() {
                line["largest_difference"] = json!(fit.largest());
                line["mean_difference"] = json!(fit.mean());
            } else {
                line["log_loss"] = json!(-fit.mean());
                line["log_loss_half_width"] = json!(half_width(&fit.each));
                line["order"] = json!(self.evidence.orders[fit.order].name);
            }
            candidates.push(line);
        }
        let verdict = match self.diagnosis.verdict {
            Verdict::Sure => "sure",
            Verdict::Likely => "likely",
            Verdict::CannotTell => "cannot tell",
            Verdict::NoneFits => "none fits",
        };
        json!({
            "verdict": verdict, "probability": self.diagnosis.probability, "says": self.sentence(), "tried": self.tried,
            "pictures": self.known.paths, "spec": self.spec().map(|spec| value_of(&spec)), "command": self.command(),
            "candidates": candidates,
        })
    }
}

fn remark(candidate: &Candidate, best: Option<&Candidate>) -> &'static str {
    let is_best = best.is_some_and(|best| best.fit.recipe == candidate.fit.recipe);
    match candidate {
        _ if is_best => "best",
        Candidate { alike: true, .. } => "alike",
        Candidate { excluded: true, .. } => "excluded",
        _ => "",
    }
}

fn filter_name(filter: ResizeFilter) -> &'static str {
    match filter {
        ResizeFilter::Nearest => "nearest",
        ResizeFilter::Bilinear => "bilinear",
        ResizeFilter::Bicubic => "bicubic",
        ResizeFilter::Lanczos => "lanczos",
        ResizeFilter::BilinearNoAntialias => "bilinear of TensorFlow",
        ResizeFilter::BilinearNoAntialiasRounded => "bilinear of OpenCV",
    }
}

/// The preset that it is, if it is one.
fn preset(preprocessing: &Preprocessing) -> Option<String> {
    let found = Preset::ALL
        .into_iter()
        .find(|preset| preset.preprocessing() == *preprocessing);
    found.map(|preset| name_of(&preset))
}

fn value_of(spec: &SpecDraft) -> Value {
    spec.finish().map_or(Value::Null, |spec| {
        serde_json::from_str(&spec.to_json()).unwrap_or_default()
    })
}

fn json_of(spec: &SpecDraft) -> String {
    value_of(spec).to_string()
}

/// A recipe in words.
pub fn describe(patient: &Patient, candidate: &Candidate) -> String {
    let recipe = candidate.fit.recipe;
    let preprocessing = patient.space.preprocessing(recipe);
    if recipe == Recipe::DECLARED {
        return "as declared".into();
    }
    let colour = &patient.space.colours[recipe.colour];
    let geometry = patient.space.geometries[recipe.geometry].0;
    let channels = match colour.channels {
        ChannelOrder::Rgb => "RGB",
        ChannelOrder::Bgr => "BGR",
        ChannelOrder::Grey => "grey",
    };
    let [height, width] = preprocessing.size().unwrap_or_default();
    let size = match (geometry, preprocessing.resize) {
        (Geometry::Stretch, _) => format!("stretched to {height}x{width}"),
        (_, Some(Resize::ShortSide(side))) => format!("short side {side}, middle {height}x{width}"),
        (_, Some(Resize::Stretch([rows, columns]))) => {
            format!("stretched to {rows}x{columns}, middle {height}x{width}")
        }
        _ => format!("{height}x{width}"),
    };
    format!(
        "{size}, {}, {channels}, {}",
        filter_name(preprocessing.filter),
        colour.name
    )
}
