//! The configuration of Kafka, its storage and its command line.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::port::Claim;

/// Warnings only, and to stderr, where the messages of the virtual machine go too.
const LOGGING: &str = "\
status = error
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{ISO8601} %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
";

/// The Java and the class files that Kafka runs with.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) java: PathBuf,
    /// A directory of jar files.
    pub(super) libraries: PathBuf,
}

impl Program {
    /// One node that keeps everything in `directory`, for clients at `broker` and itself at `controller`.
    ///
    /// # Errors
    ///
    /// When the files cannot be written or the storage cannot be formatted.
    pub(super) fn command(
        &self,
        directory: &Path,
        broker: &Claim,
        controller: &Claim,
    ) -> anyhow::Result<Command> {
        let properties = directory.join("server.properties");
        for (path, text) in [
            (&properties, properties_text(directory, broker.port(), controller.port())?),
            (&directory.join("log4j2.properties"), LOGGING.to_owned()),
        ] {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        self.format(directory, &properties)?;
        let mut command = self.java(directory);
        command.arg("kafka.Kafka").arg(properties);
        Ok(command)
    }

    /// Prepares the storage, unless that was done.
    fn format(&self, directory: &Path, properties: &Path) -> anyhow::Result<()> {
        let data = directory.join("data");
        // It is written last, so without it formatting was cut off.
        if data.join("meta.properties").is_file() {
            return Ok(());
        }
        if data.exists() {
            fs::remove_dir_all(&data)
                .with_context(|| format!("cannot empty {}", data.display()))?;
        }
        let mut command = self.java(directory);
        command.args(["kafka.tools.StorageTool", "format", "--cluster-id", &cluster_id()]);
        command.arg("--config").arg(properties);
        let output =
            command.output().with_context(|| format!("cannot run {}", self.java.display()))?;
        ensure!(
            output.status.success(),
            "Kafka's storage could not be formatted ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Java with settings for a short life on a small machine.
    fn java(&self, directory: &Path) -> Command {
        let mut logging = OsString::from("-Dlog4j2.configurationFile=");
        logging.push(directory.join("log4j2.properties"));
        let mut command = Command::new(&self.java);
        // Options that the user's environment adds would change this one.
        for variable in ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH"] {
            command.env_remove(variable);
        }
        command.args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(["-XX:-UsePerfData", "-Djava.awt.headless=true"]).arg(logging);
        command.arg("-cp").arg(self.libraries.join("*"));
        command
    }
}

/// The text of `server.properties`.
///
/// # Errors
///
/// When the directory's name cannot stand in one.
fn properties_text(directory: &Path, broker: u16, controller: u16) -> anyhow::Result<String> {
    let data = directory.join("data");
    let data = data.to_str().with_context(|| format!("{} is not UTF-8", data.display()))?;
    // A comma would separate two directories, and a backslash starts an escape.
    ensure!(
        !data.contains([',', '\\', '\n']),
        "Kafka cannot keep data in {data:?}: use a path without commas and backslashes"
    );
    Ok(format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}

# There is one node.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# A test should not wait for what matters in large clusters only.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
# After a kill the node is refused until its own session is over.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500

auto.create.topics.enable=false
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
"
    ))
}

/// A name for the storage, of Kafka's form: 128 bits in URL-safe base64, so 21 letters and one with four zero bits.
fn cluster_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:010x}{:011x}A", random() >> 24, random() >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_name_the_ports_and_the_data() {
        let text = properties_text(Path::new("/a b"), 1000, 2000).unwrap();
        for line in [
            "listeners=PLAINTEXT://127.0.0.1:1000,CONTROLLER://127.0.0.1:2000",
            "advertised.listeners=PLAINTEXT://127.0.0.1:1000",
            "controller.quorum.voters=1@127.0.0.1:2000",
            "log.dirs=/a b/data",
            "auto.create.topics.enable=false",
        ] {
            assert!(text.lines().any(|at| at == line), "{line} is not in {text}");
        }
        let addresses = text.matches("//").count();
        assert_eq!(text.matches("//127.0.0.1:").count(), addresses, "all on loopback: {text}");
    }

    #[test]
    fn no_setting_stands_twice() {
        let text = properties_text(Path::new("/a"), 1000, 2000).unwrap();
        let mut keys: Vec<&str> =
            text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_directory_that_kafka_would_misread_is_refused() {
        for directory in ["/a,b", "/a\\b", "/a\nb"] {
            let error = properties_text(Path::new(directory), 1, 2).unwrap_err().to_string();
            assert!(error.contains("without commas"), "{error}");
        }
    }

    #[test]
    fn a_cluster_id_has_kafkas_form() {
        let id = cluster_id();
        assert_eq!(id.len(), 22);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        assert_ne!(id, cluster_id());
    }
}
