//! Pictures of which something is known: their classes, or what the training framework answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use headswap_client::ClientError;
use headswap_doctor::{Order, Truth};

use crate::commands::error::CliError;
use crate::commands::pictures::{Picture, Pictures};

/// Names of the column that says that a CSV has classes.
const CLASS_COLUMNS: [&str; 4] = ["class", "label", "target", "y"];

/// Pictures and what is known of them, those that differ most first.
#[derive(Debug, Default)]
pub struct Known {
    pub paths: Vec<PathBuf>,
    pub pictures: Vec<Bytes>,
    pub truths: Vec<Truth>,
    /// The classes' names, in the order of their text; none if numbers are known.
    pub names: Vec<String>,
}

impl Known {
    /// Reads at most `limit` pictures of a directory that has a directory for each class.
    ///
    /// # Errors
    /// [`CliError`] if it has no such directories, or a picture cannot be read.
    pub fn of_directory(root: &Path, limit: usize) -> Result<Self, CliError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(root).map_err(|error| ClientError::unreadable(root, error))? {
            let entry = entry.map_err(|error| ClientError::unreadable(root, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut by_class: Vec<Vec<PathBuf>> = Vec::new();
        for name in &names {
            let directory = root.join(name);
            // A class may be without pictures, and still count.
            let found = match fs::read_dir(&directory).map(|mut entries| entries.next().is_none()) {
                Ok(true) => Vec::new(),
                _ => Pictures::find(&[directory])?.found,
            };
            by_class.push(found.into_iter().filter_map(path_of).collect());
        }
        if by_class.iter().all(Vec::is_empty) {
            let reason =
                "has no directories with pictures; give one for each class, named as in training, or --expected";
            return Err(CliError::Usage(format!("{}: {reason}", root.display())));
        }
        let mut chosen = Vec::new();
        for (class, paths) in by_class.into_iter().enumerate() {
            // The same part of each class, spread over its pictures.
            let count = paths.len();
            for (rank, path) in spread(count).into_iter().map(|index| &paths[index]).enumerate() {
                chosen.push((rank, class, path.clone()));
            }
        }
        chosen.sort();
        chosen.truncate(limit);
        let mut known = Self {
            names,
            ..Self::default()
        };
        for (_, class, path) in chosen {
            known.push(path, Truth::Class(class))?;
        }
        Ok(known)
    }

    /// Reads at most `limit` pictures that a CSV file names, with what the training framework answered: a class, or numbers. Paths
    /// are relative to the file; a header is optional. With a single unit (`rows` is 1), a number is its answer, not a class.
    ///
    /// # Errors
    /// [`CliError`] names the line that cannot be understood.
    pub fn of_csv(path: &Path, rows: usize, limit: usize) -> Result<Self, CliError> {
        let refused = |line: usize, reason: &str| CliError::Usage(format!("{}, line {line}: {reason}", path.display()));
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(csv::Trim::All)
            .from_path(path)
            .map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let (mut header, mut lines): (Vec<String>, Vec<(PathBuf, Vec<String>)>) = (Vec::new(), Vec::new());
        for (index, record) in reader.records().enumerate() {
            let record = record.map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
            let mut cells = record.iter().map(str::to_owned);
            let first = cells.next().unwrap_or_default();
            let file = folder.join(first.trim_start_matches('\u{feff}'));
            let rest: Vec<String> = cells.collect();
            if index == 0 && !file.is_file() {
                header = rest;
                continue;
            }
            if first.is_empty() && rest.is_empty() {
                continue;
            }
            if !file.is_file() {
                return Err(refused(index + 1, &format!("there is no picture {}", file.display())));
            }
            if rest.is_empty() {
                return Err(refused(
                    index + 1,
                    "it has one column; give the path and what the framework answered",
                ));
            }
            lines.push((file, rest));
        }
        if lines.is_empty() {
            return Err(CliError::Usage(format!("{}: it names no pictures", path.display())));
        }
        let is_class = has_classes(&header, &lines, rows);
        let mut names = BTreeSet::new();
        if is_class {
            names.extend(lines.iter().map(|(_, cells)| cells[0].clone()));
        }
        let mut known = Self {
            names: names.into_iter().collect(),
            ..Self::default()
        };
        let step = lines.len().div_ceil(limit.max(1));
        for (index, (file, cells)) in lines.into_iter().enumerate().step_by(step) {
            let truth = if is_class {
                let class = known.names.iter().position(|name| *name == cells[0]);
                Truth::Class(class.unwrap_or_default())
            } else {
                let mut numbers = Vec::with_capacity(cells.len());
                for cell in &cells {
                    let number = cell.parse::<f64>().ok().filter(|number| number.is_finite());
                    numbers.push(number.ok_or_else(|| refused(index + 1, &format!("`{cell}` is not a number")))?);
                }
                if numbers.len() > rows.max(2) {
                    let reason = format!("it has {} numbers and the head {rows} outputs", numbers.len());
                    return Err(refused(index + 1, &reason));
                }
                Truth::Numbers(numbers)
            };
            known.push(file, truth)?;
        }
        Ok(known)
    }

    fn push(&mut self, path: PathBuf, truth: Truth) -> Result<(), CliError> {
        self.pictures.push(Picture::File(path.clone()).read()?);
        self.paths.push(path);
        self.truths.push(truth);
        Ok(())
    }

    /// Returns the orders that the classes may have; empty if there is none.
    pub fn orders(&self, labels: &[String], rows: usize) -> Vec<Order> {
        if self.names.is_empty() {
            let name = "numbers".to_owned();
            return vec![Order { name, rows: Vec::new() }];
        }
        let units = if rows == 1 { 2 } else { rows };
        let mut orders: Vec<Order> = Vec::new();
        let mut add = |name: &str, rows: Option<Vec<usize>>| {
            if let Some(rows) = rows
                && orders.iter().all(|other| other.rows != rows)
            {
                let name = name.to_owned();
                orders.push(Order { name, rows });
            }
        };
        let by_label: BTreeMap<&str, usize> = labels
            .iter()
            .zip(0..)
            .map(|(label, row)| (label.as_str(), row))
            .collect();
        let labelled = self.names.iter().map(|name| by_label.get(name.as_str()).copied());
        add("the labels", labelled.collect());
        if self.names.len() == units {
            add("text", Some((0..units).collect()));
            add("numbers", ranks(&self.names, natural));
            add("text without case", ranks(&self.names, |name| name.to_lowercase()));
        }
        let numbers = self
            .names
            .iter()
            .map(|name| trailing_number(name).filter(|number| *number < units));
        add(
            "the numbers in the names",
            numbers.collect::<Option<Vec<usize>>>().filter(|rows| is_distinct(rows)),
        );
        orders
    }
}

fn path_of(picture: Picture) -> Option<PathBuf> {
    match picture {
        Picture::File(path) => Some(path),
        Picture::Stdin => None,
    }
}

/// The indices below `count` in an order in which the first few are spread over all.
fn spread(count: usize) -> Vec<usize> {
    let bits = usize::BITS - count.saturating_sub(1).leading_zeros();
    let reversed = (0..1usize << bits).map(|index| match bits {
        0 => 0,
        bits => index.reverse_bits() >> (usize::BITS - bits),
    });
    reversed.filter(|index| *index < count).collect()
}

/// True if the second column is a class. Whole numbers are classes if a header says so, or if the head has several outputs.
fn has_classes(header: &[String], lines: &[(PathBuf, Vec<String>)], rows: usize) -> bool {
    let is_named = header
        .first()
        .is_some_and(|name| CLASS_COLUMNS.contains(&name.to_lowercase().as_str()));
    let is_alone = lines.iter().all(|(_, cells)| cells.len() == 1);
    let is_text = lines.iter().any(|(_, cells)| cells[0].parse::<f64>().is_err());
    let is_whole = lines.iter().all(|(_, cells)| cells[0].parse::<usize>().is_ok());
    is_alone && (is_named || is_text || (is_whole && rows > 1))
}

/// For each name, its rank by a key.
fn ranks<K: Ord>(names: &[String], key: impl Fn(&str) -> K) -> Option<Vec<usize>> {
    let mut sorted: Vec<usize> = (0..names.len()).collect();
    sorted.sort_by_key(|index| key(&names[*index]));
    let mut ranks = vec![0; names.len()];
    for (rank, index) in sorted.into_iter().enumerate() {
        ranks[index] = rank;
    }
    Some(ranks)
}

/// Text and numbers by turns, so that 2 comes before 10.
fn natural(name: &str) -> Vec<(String, u64)> {
    let (mut parts, mut rest) = (Vec::new(), name);
    while !rest.is_empty() {
        let text = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[text..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(rest.len(), |end| text + end);
        parts.push((rest[..text].to_owned(), rest[text..digits].parse().unwrap_or(u64::MAX)));
        rest = &rest[digits..];
    }
    parts
}

fn trailing_number(name: &str) -> Option<usize> {
    let start = name.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    name.get(start..)?.parse().ok()
}

fn is_distinct(rows: &[usize]) -> bool {
    rows.iter().collect::<BTreeSet<_>>().len() == rows.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(names: &[&str], labels: &[&str], rows: usize) -> Vec<(String, Vec<usize>)> {
        let known = Known {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Known::default()
        };
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let orders = known.orders(&labels, rows).into_iter();
        orders.map(|order| (order.name, order.rows)).collect()
    }

    #[test]
    fn every_plausible_order_of_the_classes_is_tried_once() {
        let of = |name: &str, rows: &[usize]| (name.to_owned(), rows.to_vec());
        assert_eq!(orders(&["cat", "dog"], &[], 2), [of("text", &[0, 1])]);
        assert_eq!(orders(&["cat", "dog"], &[], 1), [of("text", &[0, 1])]);
        assert_eq!(
            orders(&["cat", "dog"], &["dog", "cat"], 2),
            [of("the labels", &[1, 0]), of("text", &[0, 1])]
        );
        assert_eq!(
            orders(&["1", "10", "2"], &[], 3),
            [of("text", &[0, 1, 2]), of("numbers", &[0, 2, 1])]
        );
        assert_eq!(
            orders(&["class_3", "class_7"], &[], 10),
            [of("the numbers in the names", &[3, 7])]
        );
        assert_eq!(
            orders(&["cat", "dog"], &["cat", "cow", "dog"], 3),
            [of("the labels", &[0, 2])]
        );
        assert_eq!(orders(&["cat", "dog"], &[], 3), []);
    }

    #[test]
    fn the_first_of_many_are_spread_over_all() {
        assert_eq!(spread(0), [] as [usize; 0]);
        assert_eq!(spread(1), [0]);
        assert_eq!(spread(6), [0, 4, 2, 1, 5, 3]);
    }

    #[test]
    fn whole_numbers_are_classes_unless_there_is_one_output() {
        let lines = |cells: &[&str]| -> Vec<(PathBuf, Vec<String>)> {
            cells
                .iter()
                .map(|cell| (PathBuf::new(), vec![(*cell).to_owned()]))
                .collect()
        };
        assert!(has_classes(&[], &lines(&["3", "1"]), 4));
        assert!(!has_classes(&[], &lines(&["3", "1"]), 1));
        assert!(has_classes(&["label".into()], &lines(&["1", "0"]), 1));
        assert!(has_classes(&[], &lines(&["cat", "1"]), 1));
        assert!(!has_classes(&["p".into()], &lines(&["0.5", "0.25"]), 4));
    }
}
