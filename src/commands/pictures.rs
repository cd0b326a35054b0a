//! The pictures that a command line names: files, folders and standard input.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use headswap_client::ClientError;

use super::error::CliError;
use super::output::note;

/// Extensions, in lower case, of what a folder is searched for.
const EXTENSIONS: [&str; 6] = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];

/// One picture, not yet read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Picture {
    File(PathBuf),
    Stdin,
}

/// The pictures in the order of the command line, those of a folder by path.
#[derive(Debug, Default)]
pub(super) struct Pictures {
    pub found: Vec<Picture>,
    /// Folders that could not be searched.
    pub failures: Failures,
}

/// What went wrong with single pictures or folders while others went on; reported at the end.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<String>);

impl Picture {
    /// As the command line names it.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "-".to_owned(),
        }
    }

    /// Reads the file, or standard input to its end.
    pub fn read(&self) -> Result<bytes::Bytes, ClientError> {
        match self {
            Self::File(path) => {
                let read = fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
                Ok(read.into())
            }
            Self::Stdin => {
                let mut read = Vec::new();
                let result = io::stdin().lock().read_to_end(&mut read);
                result.map_err(|error| ClientError::unreadable(Path::new("standard input"), error))?;
                Ok(read.into())
            }
        }
    }
}

impl Pictures {
    /// Finds what `arguments` name: `-` is standard input, a folder every picture below it by extension.
    ///
    /// # Errors
    /// [`CliError::Usage`] if `-` is given twice or a folder has no pictures.
    pub fn find(arguments: &[PathBuf]) -> Result<Self, CliError> {
        let mut pictures = Self::default();
        for argument in arguments {
            if argument.as_os_str() == "-" {
                if pictures.found.contains(&Picture::Stdin) {
                    return Err(CliError::Usage(
                        "`-` is given twice; standard input holds one picture".into(),
                    ));
                }
                pictures.found.push(Picture::Stdin);
            } else if argument.is_dir() {
                pictures.search(argument)?;
            } else {
                // That it is missing is reported when it is read, so that the others are answered.
                pictures.found.push(Picture::File(argument.clone()));
            }
        }
        Ok(pictures)
    }

    /// Adds the pictures below `root` in the order of their paths. Links to folders are not followed: they may lead back.
    fn search(&mut self, root: &Path) -> Result<(), CliError> {
        let failed_before = self.failures.count();
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            if let Err(error) = list(&folder, &mut files, &mut folders) {
                self.failures.add(&folder.display().to_string(), &error);
            }
        }
        if files.is_empty() && self.failures.count() == failed_before {
            return Err(CliError::Usage(format!(
                "{} holds no pictures (.{})",
                root.display(),
                EXTENSIONS.join(", .")
            )));
        }
        files.sort_unstable();
        self.found.extend(files.into_iter().map(Picture::File));
        Ok(())
    }
}

/// Sorts a folder's entries into pictures and folders.
fn list(folder: &Path, files: &mut Vec<PathBuf>, folders: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            folders.push(path);
        } else if has_extension(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    Ok(())
}

fn has_extension(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
}

impl Failures {
    pub fn add(&mut self, name: &str, reason: &dyn std::fmt::Display) {
        self.0.push(format!("{name}: {reason}"));
    }

    /// Adds a failure whose text names the picture.
    pub fn add_line(&mut self, line: String) {
        self.0.push(line);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Prints each on a line of standard error.
    pub fn report(&self) {
        for failure in &self.0 {
            note(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_pictures_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("b/c")).unwrap();
        for name in ["z.jpg", "b/y.PNG", "b/c/x.webp", "a.gif", "notes.txt", "b/jpg", ".bmp"] {
            fs::write(root.join(name), b"").unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("b/again.jpg")).unwrap();
        std::os::unix::fs::symlink(root.join("z.jpg"), root.join("b/link.jpeg")).unwrap();
        let pictures = Pictures::find(&[root.to_owned(), "-".into(), "missing.jpg".into()]).unwrap();
        let mut expected: Vec<Picture> = Vec::new();
        for name in ["a.gif", "b/c/x.webp", "b/link.jpeg", "b/y.PNG", "z.jpg"] {
            expected.push(Picture::File(root.join(name)));
        }
        expected.extend([Picture::Stdin, Picture::File("missing.jpg".into())]);
        assert_eq!(pictures.found, expected);
    }

    #[test]
    fn what_means_nothing_is_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), b"").unwrap();
        for (arguments, part) in [
            (vec![folder.path().to_owned()], "holds no pictures (.bmp, .gif,"),
            (vec!["-".into(), "-".into()], "`-` is given twice"),
        ] {
            let error = Pictures::find(&arguments).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
