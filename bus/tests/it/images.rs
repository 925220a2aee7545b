//! Images of a database directory: taken of a closed one, changed, and laid out again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files below a directory, by path from there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
    pub(crate) dirs: Vec<PathBuf>,
}

impl Image {
    /// Takes an image of `dir`. Zeros at the end of journals, of which there are millions, are left out: the library
    /// preallocates them, and cuts them off itself when it opens.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut image = Self::default();
        image.add(dir, Path::new(""));
        image
    }

    fn add(&mut self, root: &Path, inside: &Path) {
        for entry in fs::read_dir(root.join(inside)).unwrap() {
            let entry = entry.unwrap();
            let path = inside.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.dirs.push(path.clone());
                self.add(root, &path);
            } else {
                let mut bytes = fs::read(entry.path()).unwrap();
                if path.extension().is_some_and(|extension| extension == "jnl") {
                    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                    bytes.truncate(used + 64);
                }
                self.files.insert(path, bytes);
            }
        }
    }

    /// Lays the image out in `dir`, which is emptied first.
    pub(crate) fn lay_out(&self, dir: &Path) {
        if dir.exists() {
            fs::remove_dir_all(dir).unwrap();
        }
        fs::create_dir_all(dir).unwrap();
        for inside in &self.dirs {
            fs::create_dir_all(dir.join(inside)).unwrap();
        }
        for (path, bytes) in &self.files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}
