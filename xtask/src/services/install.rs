//! Where the programs of the services are: on this machine, or downloaded once by the package clients it has.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::workspace::on_path;

use super::command::progress;
use super::kafka;
use super::lock::Lock;
use super::{Service, command};

/// Of Kafka; a change downloads it anew.
const KAFKA_VERSION: &str = "4.4.0";

/// Of what writes Kafka's log messages, which Kafka's own dependencies leave open. As its log4j-core.
const LOG4J_VERSION: &str = "2.25.5";

/// Of what copies the class files; named, so that the same one is used everywhere.
const DEPENDENCY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";

/// The oldest Java that Kafka 4 runs on.
const JAVA_MIN: u32 = 17;

/// How long one download may hold the lock.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

const JAVA_REMEDY: &str = "install a Java runtime, 17 or newer (Debian: apt-get install default-jre-headless), or set JAVA_HOME";

/// The programs, in `target/services`.
#[derive(Clone, Debug)]
pub(super) struct Installed {
    directory: PathBuf,
}

/// What is needed to start a service.
#[derive(Clone, Debug)]
pub(super) enum Program {
    Etcd(PathBuf),
    Kafka(kafka::Program),
}

impl Installed {
    /// Those of this workspace.
    ///
    /// # Errors
    ///
    /// When the target directory cannot be found.
    pub(super) fn here() -> anyhow::Result<Self> {
        Ok(Self { directory: command::directory()? })
    }

    /// What `service` is started with; nothing is downloaded.
    ///
    /// # Errors
    ///
    /// When it is not here; the message says how to get it.
    pub(super) fn find(&self, service: Service) -> anyhow::Result<Program> {
        match service {
            Service::Etcd => match self.etcd_program("etcd") {
                Some(program) => Ok(Program::Etcd(program)),
                None => bail!("etcd is not here: `cargo xtask services up` downloads it"),
            },
            Service::Kafka => {
                let libraries = self.kafka_libraries();
                ensure!(
                    libraries.is_dir(),
                    "Kafka is not here: `cargo xtask services up` downloads it"
                );
                Ok(Program::Kafka(kafka::Program { java: java()?, libraries }))
            }
        }
    }

    /// `etcdctl`, for people to look with; none if it is not here.
    pub(super) fn etcdctl(&self) -> Option<PathBuf> {
        self.etcd_program("etcdctl")
    }

    /// Downloads what `service` needs and is not here.
    ///
    /// # Errors
    ///
    /// When it cannot be had; the message says what to install.
    pub(super) fn install(&self, service: Service) -> anyhow::Result<()> {
        if self.find(service).is_ok() {
            return Ok(());
        }
        let lock = self.directory.join(format!("{service}.lock"));
        let _lock = Lock::wait(&lock, DOWNLOAD_LIMIT, "another download")?;
        match service {
            Service::Etcd => self.install_etcd(),
            Service::Kafka => self.install_kafka(),
        }
    }

    fn etcd_program(&self, name: &str) -> Option<PathBuf> {
        let downloaded = self.directory.join("etcd/usr/bin").join(name);
        on_path(name).or_else(|| downloaded.is_file().then_some(downloaded))
    }

    fn kafka_libraries(&self) -> PathBuf {
        self.directory.join("kafka").join(KAFKA_VERSION)
    }

    /// Debian's packages, unpacked and not installed: no service is started, and no root is needed.
    fn install_etcd(&self) -> anyhow::Result<()> {
        const PACKAGES: [&str; 2] = ["etcd-server", "etcd-client"];
        if self.etcd_program("etcd").is_some() {
            return Ok(());
        }
        if on_path("apt-get").is_none() || on_path("dpkg").is_none() {
            bail!(
                "etcd is missing, and there is no apt-get to get it with: put etcd 3.4 or newer on PATH"
            );
        }
        progress("downloading etcd (Debian's packages, 13 MB) ...");
        let part = Part::new(&self.directory.join("etcd"))?;
        let download = || {
            let mut command = Command::new("apt-get");
            command.args(["-q", "download"]).args(PACKAGES).current_dir(part.path());
            run(command)
        };
        if let Err(error) = download() {
            // On a fresh machine the package lists are absent or old, and only root can renew them.
            if !rustix::process::geteuid().is_root() {
                bail!(
                    "etcd cannot be downloaded: run `sudo apt-get update` and try again, or \
                     `sudo apt-get install {}`, or put etcd 3.4 or newer on PATH\n{error:#}",
                    PACKAGES.join(" ")
                );
            }
            progress("renewing apt's package lists ...");
            let mut update = Command::new("apt-get");
            update.args(["-q", "update"]);
            run(update).and_then(|()| download()).context(
                "etcd cannot be downloaded: see that apt-get update works, or put etcd 3.4 or newer on PATH",
            )?;
        }
        for package in files_with(part.path(), "deb")? {
            let mut unpack = Command::new("dpkg");
            unpack.arg("-x").arg(&package).arg(part.path());
            run(unpack).context("a package of etcd cannot be unpacked: try again")?;
            fs::remove_file(&package)
                .with_context(|| format!("cannot remove {}", package.display()))?;
        }
        ensure!(
            part.path().join("usr/bin/etcd").is_file(),
            "the package etcd-server has no usr/bin/etcd: put etcd 3.4 or newer on PATH"
        );
        part.finish()
    }

    /// Kafka as Maven's central repository has it: class files, and those they depend on.
    fn install_kafka(&self) -> anyhow::Result<()> {
        java()?;
        let libraries = self.kafka_libraries();
        if libraries.is_dir() {
            return Ok(());
        }
        ensure!(
            on_path("mvn").is_some(),
            "Kafka is missing, and so is mvn to download it with: install Maven (Debian: apt-get install maven)"
        );
        progress(&format!(
            "downloading Kafka {KAFKA_VERSION} (from Maven's central repository, 43 MB) ..."
        ));
        let part = Part::new(&libraries)?;
        let project = part.path().join("pom.xml");
        fs::write(&project, project_text())
            .with_context(|| format!("cannot write {}", project.display()))?;
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--quiet", "--file"]).arg(&project);
        maven.arg(format!("{DEPENDENCY_PLUGIN}:copy-dependencies"));
        maven.args(["-DincludeScope=runtime", "-Dmdep.useSubDirectoryPerScope=false"]);
        maven.arg(format!("-DoutputDirectory={}", part.path().display()));
        run(maven).context(
            "Kafka cannot be downloaded: see that Maven reaches its central repository (settings.xml), then try again",
        )?;
        let kafka = part.path().join(format!("kafka_2.13-{KAFKA_VERSION}.jar"));
        ensure!(kafka.is_file(), "Maven ended well and left no {}: try again", kafka.display());
        part.finish()
    }
}

/// What Maven is told to copy.
fn project_text() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "    <dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    format!(
        "\
<project xmlns=\"http://maven.apache.org/POM/4.0.0\">
  <modelVersion>4.0.0</modelVersion>
  <groupId>picket</groupId>
  <artifactId>services</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{}{}  </dependencies>
</project>
",
        dependency("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
    )
}

/// The Java of `JAVA_HOME`, else the one on PATH, if it is new enough.
fn java() -> anyhow::Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let java = match home {
        Some(home) => Path::new(&home).join("bin/java"),
        None => on_path("java").with_context(|| format!("Java is missing: {JAVA_REMEDY}"))?,
    };
    let output = Command::new(&java)
        .arg("-version")
        .output()
        .with_context(|| format!("{} cannot be run: {JAVA_REMEDY}", java.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match java_version(&said) {
        Some(version) if JAVA_MIN <= version => Ok(java),
        Some(version) => bail!("{} is Java {version}, too old: {JAVA_REMEDY}", java.display()),
        None => bail!("{} does not say its version but {said:?}: {JAVA_REMEDY}", java.display()),
    }
}

/// The number in what `java -version` says, for instance 17 of `openjdk version "17.0.15" 2025-04-15`.
fn java_version(said: &str) -> Option<u32> {
    let line = said.lines().find(|line| line.contains(" version \""))?;
    let version = line.split('"').nth(1)?;
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    // Java 8 called itself 1.8.
    digits(version.strip_prefix("1.").unwrap_or(version))
}

/// A directory in the making, next to where it will be. Dropped before it is finished, it goes.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    whole: PathBuf,
}

impl Part {
    /// The caller has the lock of it.
    fn new(whole: &Path) -> anyhow::Result<Self> {
        let path = whole.with_added_extension("part");
        // Of a download that was cut off.
        remove(&path)?;
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, whole: whole.to_path_buf() })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn finish(self) -> anyhow::Result<()> {
        remove(&self.whole)?;
        fs::rename(&self.path, &self.whole)
            .with_context(|| format!("cannot create {}", self.whole.display()))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename it is not there; what a failure leaves, the next download removes.
        fs::remove_dir_all(&self.path).ok();
    }
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

fn files_with(directory: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    Ok(files)
}

/// Runs a package client to its end; what it said is part of the error.
fn run(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(10)..];
    bail!("{program} ended with {}:\n{}", output.status, last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_java_is_read() {
        let check = |said: &str, expected| assert_eq!(java_version(said), expected, "{said}");
        check("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime ...", Some(17));
        check("Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version \"21\" 2023-09-19", Some(21));
        check("java version \"1.8.0_392\"", Some(8));
        check("openjdk version \"26-ea\" 2026-03-17", Some(26));
        check("openjdk version \"\"", None);
        check("command not found", None);
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let whole = directory.path().join("kafka/1.2.3");
        let part = Part::new(&whole).unwrap();
        fs::write(part.path().join("half"), "").unwrap();
        drop(part);
        assert!(!whole.exists());
        assert_eq!(fs::read_dir(directory.path().join("kafka")).unwrap().count(), 0);

        let part = Part::new(&whole).unwrap();
        fs::write(part.path().join("all"), "").unwrap();
        part.finish().unwrap();
        assert!(whole.join("all").is_file());
        assert!(!whole.join("half").exists());
        assert_eq!(fs::read_dir(directory.path().join("kafka")).unwrap().count(), 1);
    }

    #[test]
    fn what_a_client_says_is_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo Ign:1; echo E: no such package >&2; exit 100"]);
        let error = run(command).unwrap_err().to_string();
        assert!(error.contains("no such package"), "{error}");
    }

    #[test]
    fn nothing_is_found_in_an_empty_directory_and_the_remedy_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let installed = Installed { directory: directory.path().to_path_buf() };
        let error = installed.find(Service::Kafka).unwrap_err().to_string();
        assert!(error.contains("cargo xtask services up"), "{error}");
    }

    #[test]
    fn the_project_pins_its_versions() {
        let text = project_text();
        assert!(
            text.contains(&format!("<artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}<")),
            "{text}"
        );
        assert_eq!(text.matches("<version>").count(), 3, "{text}");
    }
}
