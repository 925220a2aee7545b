//! Temperature: the hottest of the sensors that the kernel shows in sysfs.
//!
//! Read here and not through sysinfo, which takes sensors of one label for a single one, so that of two drives of one
//! model only one would be looked at, and which leaves thermal zones out where any other sensor is.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str;
use std::time::{Duration, Instant};

/// How often sensors are looked for. Those that are known are read at every measurement.
const SEARCH_AFTER: Duration = Duration::from_secs(60);

/// No temperature is lower, in thousandths of a degree Celsius; drivers say so of a sensor that is not ready.
const ABSOLUTE_ZERO: i64 = -273_150;

/// The sensors of a host.
#[derive(Debug)]
pub(super) struct Sensors {
    class_dir: PathBuf,
    found: Vec<Sensor>,
    searched_at: Option<Instant>,
}

#[derive(Debug)]
struct Sensor {
    reading: PathBuf,
    /// Says whether the reading means nothing, as that of a socket without a chip. Few sensors have it.
    fault: Option<PathBuf>,
}

impl Sensors {
    /// The sensors of this host.
    pub(super) fn new() -> Self {
        Self::below("/sys/class".into())
    }

    /// Those that `class_dir` describes, as `/sys/class` does.
    pub(super) fn below(class_dir: PathBuf) -> Self {
        Self { class_dir, found: Vec::new(), searched_at: None }
    }

    /// The highest temperature now, in thousandths of a degree Celsius; none where no sensor can be read.
    pub(super) fn hottest(&mut self, now: Instant) -> Option<i64> {
        let is_recent = |at| now.saturating_duration_since(at) < SEARCH_AFTER;
        if !self.searched_at.is_some_and(is_recent) {
            self.found = monitored_chips(&self.class_dir).chain(zones(&self.class_dir)).collect();
            self.searched_at = Some(now);
        }
        self.found.iter().filter_map(Sensor::read).max()
    }
}

impl Sensor {
    fn read(&self) -> Option<i64> {
        if self.fault.as_deref().and_then(number_in).is_some_and(|fault| fault != 0) {
            return None;
        }
        number_in(&self.reading).filter(|reading| ABSOLUTE_ZERO <= *reading)
    }
}

/// The sensors of `hwmon/hwmon*/temp*_input` (Documentation/hwmon/sysfs-interface.rst of the kernel).
fn monitored_chips(class_dir: &Path) -> impl Iterator<Item = Sensor> {
    entries(&class_dir.join("hwmon")).flat_map(|chip| entries(&chip)).filter_map(|reading| {
        let number = reading.file_name()?.to_str()?.strip_prefix("temp")?.strip_suffix("_input")?;
        let fault = reading.with_file_name(format!("temp{number}_fault"));
        Some(Sensor { fault: fault.exists().then_some(fault), reading })
    })
}

/// The sensors of `thermal/thermal_zone*/temp`. On a PC most are chips as well, on ARM boards often none is.
fn zones(class_dir: &Path) -> impl Iterator<Item = Sensor> {
    entries(&class_dir.join("thermal")).filter_map(|zone| {
        zone.file_name()?.to_str()?.strip_prefix("thermal_zone")?;
        Some(Sensor { reading: zone.join("temp"), fault: None })
    })
}

/// What `dir` has; nothing if it cannot be read.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn number_in(file: &Path) -> Option<i64> {
    // No number is longer; what is cut there is none.
    let mut text = [0; 32];
    let length = fs::File::open(file).ok()?.read(&mut text).ok()?;
    str::from_utf8(text.get(..length)?).ok()?.trim_ascii().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        class_dir: tempfile::TempDir,
        sensors: Sensors,
        start: Instant,
    }

    impl Host {
        fn new() -> Self {
            let class_dir = tempfile::tempdir().unwrap();
            let sensors = Sensors::below(class_dir.path().to_owned());
            Self { class_dir, sensors, start: Instant::now() }
        }

        fn write(&self, file: &str, text: &str) {
            let file = self.class_dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }

        fn check(&mut self, after_s: u64, expected: Option<i64>) {
            let now = self.start + Duration::from_secs(after_s);
            assert_eq!(self.sensors.hottest(now), expected);
        }
    }

    #[test]
    fn a_host_without_sensors_has_no_temperature() {
        let mut host = Host::new();
        host.check(0, None);
        host.write("hwmon/hwmon0/fan1_input", "1200\n");
        host.write("thermal/cooling_device0/temp", "1\n");
        host.check(100, None);
    }

    #[test]
    fn the_hottest_counts_wherever_it_is() {
        let mut host = Host::new();
        host.write("hwmon/hwmon0/temp1_input", "41000\n");
        host.write("hwmon/hwmon1/temp1_input", "-5000\n");
        host.write("hwmon/hwmon1/temp12_input", "52125\n");
        host.write("hwmon/hwmon1/temp12_crit", "100000\n");
        host.check(0, Some(52_125));
        host.write("thermal/thermal_zone0/temp", "60001\n");
        host.check(100, Some(60_001));
    }

    #[test]
    fn sensors_are_read_each_time_and_looked_for_once_a_minute() {
        let mut host = Host::new();
        host.write("hwmon/hwmon0/temp1_input", "30000\n");
        host.check(0, Some(30_000));
        host.write("hwmon/hwmon0/temp1_input", "31000\n");
        host.write("hwmon/hwmon0/temp2_input", "90000\n");
        host.check(59, Some(31_000));
        host.check(60, Some(90_000));
    }

    #[test]
    fn what_is_no_temperature_is_left_out() {
        let mut host = Host::new();
        host.write("hwmon/hwmon0/temp1_input", "20000\n");
        host.write("hwmon/hwmon0/temp2_input", "127000\n");
        host.write("hwmon/hwmon0/temp2_fault", "1\n");
        host.write("hwmon/hwmon0/temp3_input", "hot\n");
        host.write("hwmon/hwmon0/temp4_input", "");
        host.check(0, Some(20_000));
        host.write("hwmon/hwmon0/temp2_fault", "0\n");
        host.check(0, Some(127_000));
    }

    #[test]
    fn a_sensor_that_is_gone_or_not_ready_is_absent() {
        let mut host = Host::new();
        host.write("thermal/thermal_zone0/temp", "-274000\n");
        host.write("hwmon/hwmon0/temp1_input", "20000\n");
        host.check(0, Some(20_000));
        fs::remove_dir_all(host.class_dir.path().join("hwmon")).unwrap();
        host.check(1, None);
    }
}
