//! The file system that a kernel starts with: busybox, programs with their libraries, modules; a cpio archive ("newc").

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::packages::Kernel;

/// Kinds of files in a mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a file with its folders; the first of a name stays.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let path = PathBuf::from(path.trim_start_matches('/'));
        if !self.files.insert(path.clone()) {
            return;
        }
        let folders: Vec<_> = path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        for folder in folders.into_iter().rev() {
            self.folder(folder);
        }
        self.entry(&path, FILE | mode, contents);
    }

    fn folder(&mut self, path: &Path) {
        if self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER | 0o755, &[]);
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, contents: &[u8]) {
        let name = path.to_string_lossy();
        // Magic, inode, mode, owner, group, links, time, size, four numbers of devices, length of the name, checksum.
        let inode = self.folders.len() + self.files.len() + 1;
        let fields = [inode, mode as usize, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a program as `to`, and the libraries that it is linked against.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        let output = Command::new("ldd").arg(from).output().context("cannot run ldd")?;
        // A static program has none, and ldd fails.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for word in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(word), word)?;
        }
        Ok(())
    }

    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mode = fs::metadata(from).map_or(0o755, |data| data.permissions().mode() & 0o777);
        self.file(to, mode, &read(from)?);
        Ok(())
    }

    /// Adds modules as `/modules/NN-NAME.ko`, each after those that it needs. What has no file is built in.
    pub fn modules(&mut self, kernel: &Kernel, names: &[&str]) -> Result<()> {
        let mut files = Vec::new();
        find_modules(&kernel.modules, &mut files)?;
        let mut done = Vec::new();
        for name in names {
            self.module(&files, name, &mut done)?;
        }
        ensure!(!done.is_empty(), "no modules in {}", kernel.modules.display());
        Ok(())
    }

    fn module(&mut self, files: &[PathBuf], name: &str, done: &mut Vec<String>) -> Result<()> {
        if done.iter().any(|known| known == name) {
            return Ok(());
        }
        let Some(file) = files.iter().find(|file| module_name(file) == name) else { return Ok(()) };
        let contents = unpacked(file)?;
        for needed in depends(&contents) {
            self.module(files, &needed, done)?;
        }
        self.file(&format!("modules/{:02}-{name}.ko", done.len()), 0o644, &contents);
        done.push(name.to_owned());
        Ok(())
    }

    /// Writes it.
    pub fn write(mut self, path: &Path) -> Result<()> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        let mut file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        file.write_all(&self.bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn find_modules(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_modules(&path, into)?;
        } else if path.to_string_lossy().contains(".ko") {
            into.push(path);
        }
    }
    Ok(())
}

/// `virtio_net` of `virtio-net.ko.xz`.
fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let by = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(by).arg("-dc").arg(path).output();
    let output = output.with_context(|| {
        format!(
            "cannot run {by}, by which this kernel's modules are packed (Debian's packages xz-utils and zstd)"
        )
    })?;
    ensure!(output.status.success(), "{by} cannot unpack {}", path.display());
    Ok(output.stdout)
}

/// The modules that a module needs: `depends=a,b` among its information.
fn depends(module: &[u8]) -> Vec<String> {
    let mark = b"\0depends=";
    let Some(at) = module.windows(mark.len()).position(|window| window == mark) else { return Vec::new() };
    let rest = module.get(at + mark.len()..).unwrap_or_default();
    let list = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        let module = b"\x7fELF..license=GPL\0depends=net_failover,virtio-ring\0name=virtio_net\0";
        assert_eq!(vec!["net_failover", "virtio_ring"], depends(module));
        assert_eq!(Vec::<String>::new(), depends(b"\0depends=\0"));
        assert_eq!("virtio_net", module_name(Path::new("/x/virtio-net.ko.xz")));
    }

    #[test]
    fn an_archive_holds_each_file_once_after_its_folders() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/a", 0o755, b"one");
        archive.file("usr/bin/a", 0o755, b"another");
        archive.file("usr/b", 0o644, b"two");
        let text = String::from_utf8_lossy(&archive.bytes);
        assert_eq!(4, text.matches("070701").count(), "usr, usr/bin, usr/bin/a, usr/b");
        assert_eq!(0, archive.bytes.len() % 4);
    }
}
