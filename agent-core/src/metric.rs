//! What can be measured: the metrics, their resolutions, and a set of values.

use core::fmt;
use core::str::FromStr;

use serde::de::{Error as _, SeqAccess, Unexpected, Visitor};
use serde::ser::SerializeTuple as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Counts of a metric with two decimals in one unit.
const HUNDREDTHS: i64 = 100;
/// Counts of a metric with three decimals in one unit.
const THOUSANDTHS: i64 = 1000;
/// Counts of a byte metric in one MB (1,048,576 B).
const MEGABYTE: i64 = 1_048_576;

/// A metric. The discriminant is its id on the wire; ids are never reused.
///
/// Inside the core a value is an `i64` count of the metric's resolution (see [`Metric::counts_per_unit`]), so
/// that equality is exact and no floating point unit is needed.
///
/// To add one: a variant and a row in the table below it, in a collector the place where it is read, and the next version of
/// the codec's block, which a reader without the metric must refuse. Plugins, configuration and tools take it from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Metric {
    /// Busy share of all cores. Unit percent, counted in hundredths, 0 to 10,000.
    CpuPercent = 0,
    /// Used share of physical memory. Unit percent, counted in hundredths, 0 to 10,000.
    MemoryPercent = 1,
    /// Physical memory in use. Unit MB, counted in bytes.
    MemoryUsed = 2,
    /// Physical memory. Unit MB, counted in bytes.
    MemoryTotal = 3,
    /// Rate of reads from block devices. Unit MB/s, counted in bytes per second.
    DiskRead = 4,
    /// Rate of writes to block devices. Unit MB/s, counted in bytes per second.
    DiskWrite = 5,
    /// Rate received on network interfaces, loopback excluded. Unit MB/s, counted in bytes per second.
    NetIn = 6,
    /// Rate sent on network interfaces, loopback excluded. Unit MB/s, counted in bytes per second.
    NetOut = 7,
    /// Load average of the last minute. Unit runnable tasks, counted in hundredths.
    Load1 = 8,
    /// Load average of the last 5 minutes. Unit runnable tasks, counted in hundredths.
    Load5 = 9,
    /// Load average of the last 15 minutes. Unit runnable tasks, counted in hundredths.
    Load15 = 10,
    /// Swap space in use. Unit MB, counted in bytes.
    SwapUsed = 11,
    /// Swap space. Unit MB, counted in bytes.
    SwapTotal = 12,
    /// Used share of the root file system. Unit percent, counted in hundredths, 0 to 10,000.
    DiskPercent = 13,
    /// Space in use on the root file system. Unit MB, counted in bytes.
    DiskUsed = 14,
    /// Size of the root file system. Unit MB, counted in bytes.
    DiskTotal = 15,
    /// Temperature of the hottest sensor. Unit degrees Celsius, counted in thousandths.
    Temperature = 16,
    /// Time since the host started. Unit seconds, counted in milliseconds.
    Uptime = 17,
    /// Resident memory of the agent itself. Unit MB, counted in bytes.
    AgentMemory = 18,
    /// Time on a processor of the agent itself. Unit percent of one core, counted in hundredths.
    AgentCpu = 19,
    /// How full the agent's ring of unacknowledged records is. Unit percent, counted in hundredths. The agent adds it
    /// to a snapshot by itself.
    AgentBuffer = 20,
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.id())
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = u8::deserialize(deserializer)?;
        Self::from_id(u32::from(id)).ok_or_else(|| {
            D::Error::invalid_value(Unexpected::Unsigned(u64::from(id)), &"the id of a metric")
        })
    }
}

/// What is to know of a metric.
struct Descriptor {
    metric: Metric,
    name: &'static str,
    unit: &'static str,
    counts_per_unit: i64,
    kind: MetricKind,
}

/// How a metric is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// What it was at the moment.
    Gauge,
    /// A rate over the time since the snapshot before; the first snapshot cannot have it.
    Rate,
}

const fn row(
    metric: Metric,
    name: &'static str,
    unit: &'static str,
    counts_per_unit: i64,
    kind: MetricKind,
) -> Descriptor {
    Descriptor { metric, name, unit, counts_per_unit, kind }
}

/// The table of metrics, in the order of their ids.
const REGISTRY: [Descriptor; 21] = {
    use Metric as M;
    use MetricKind::{Gauge, Rate};
    [
        row(M::CpuPercent, "cpu_percent", "%", HUNDREDTHS, Gauge),
        row(M::MemoryPercent, "memory_percent", "%", HUNDREDTHS, Gauge),
        row(M::MemoryUsed, "memory_used_mb", "MB", MEGABYTE, Gauge),
        row(M::MemoryTotal, "memory_total_mb", "MB", MEGABYTE, Gauge),
        row(M::DiskRead, "disk_read_mb", "MB/s", MEGABYTE, Rate),
        row(M::DiskWrite, "disk_write_mb", "MB/s", MEGABYTE, Rate),
        row(M::NetIn, "net_in_mb", "MB/s", MEGABYTE, Rate),
        row(M::NetOut, "net_out_mb", "MB/s", MEGABYTE, Rate),
        row(M::Load1, "load1", "", HUNDREDTHS, Gauge),
        row(M::Load5, "load5", "", HUNDREDTHS, Gauge),
        row(M::Load15, "load15", "", HUNDREDTHS, Gauge),
        row(M::SwapUsed, "swap_used_mb", "MB", MEGABYTE, Gauge),
        row(M::SwapTotal, "swap_total_mb", "MB", MEGABYTE, Gauge),
        row(M::DiskPercent, "disk_percent", "%", HUNDREDTHS, Gauge),
        row(M::DiskUsed, "disk_used_mb", "MB", MEGABYTE, Gauge),
        row(M::DiskTotal, "disk_total_mb", "MB", MEGABYTE, Gauge),
        row(M::Temperature, "temperature_celsius", "°C", THOUSANDTHS, Gauge),
        row(M::Uptime, "uptime_seconds", "s", THOUSANDTHS, Gauge),
        row(M::AgentMemory, "agent_memory_mb", "MB", MEGABYTE, Gauge),
        row(M::AgentCpu, "agent_cpu_percent", "%", HUNDREDTHS, Rate),
        row(M::AgentBuffer, "agent_buffer_percent", "%", HUNDREDTHS, Gauge),
    ]
};

const _: () = {
    let mut index = 0;
    while index < REGISTRY.len() {
        assert!(REGISTRY[index].metric.index() == index, "a metric's row stands at its id");
        index += 1;
    }
};

impl Metric {
    /// How many there are.
    pub const COUNT: usize = REGISTRY.len();

    /// All metrics in the order of their ids.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self::CpuPercent; Self::COUNT];
        let mut index = 0;
        while index < Self::COUNT {
            all[index] = REGISTRY[index].metric;
            index += 1;
        }
        all
    };

    /// The metric with this id on the wire.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The id on the wire.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The position in [`Metric::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in JSON and protobuf.
    pub const fn name(self) -> &'static str {
        REGISTRY[self.index()].name
    }

    /// The unit of the metric outside the core; empty for a plain number.
    pub const fn unit(self) -> &'static str {
        REGISTRY[self.index()].unit
    }

    /// How many counts make one unit: value in units = count / `counts_per_unit`.
    pub const fn counts_per_unit(self) -> i64 {
        REGISTRY[self.index()].counts_per_unit
    }

    /// The least count that it can have: 0, and absolute zero for a temperature.
    pub const fn least(self) -> i64 {
        match self {
            Self::Temperature => -273_150,
            _ => 0,
        }
    }

    /// The greatest count that it can have, as far as that is known: 100 % of what is a share of a whole.
    pub const fn greatest(self) -> i64 {
        match self {
            Self::CpuPercent | Self::MemoryPercent | Self::DiskPercent | Self::AgentBuffer => {
                10_000
            }
            _ => i64::MAX,
        }
    }

    /// How it is measured.
    pub const fn kind(self) -> MetricKind {
        REGISTRY[self.index()].kind
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The share of `used` in `total` in hundredths of a percent, rounded to the nearest; none without a total.
///
/// Collectors compute percent metrics here and nowhere else, so that the codec can predict them.
pub fn percent_of(used: i64, total: i64) -> Option<i64> {
    let scaled = i128::from(used) * i128::from(100 * HUNDREDTHS) + i128::from(total) / 2;
    i64::try_from(scaled.checked_div(i128::from(total))?).ok()
}

/// No metric has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no metric has this name")]
pub struct UnknownMetric;

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        Self::ALL.into_iter().find(|metric| metric.name() == name).ok_or(UnknownMetric)
    }
}

/// A set of metrics; bit i stands for the metric with id i.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct MetricSet(u64);

const _: () = assert!(Metric::COUNT <= 64, "a MetricSet has 64 bits");

impl<'de> Deserialize<'de> for MetricSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self::from_bits_truncate)
    }
}

impl MetricSet {
    /// No metric.
    pub const EMPTY: Self = Self(0);
    /// Every metric.
    pub const ALL: Self = Self((1 << Metric::COUNT) - 1);
    /// The eight of the fixed wire forms, which every reader knows. Collected by default.
    pub const FIXED: Self = Self(0xff);

    /// The set with these bits; bits that stand for no metric are dropped.
    pub const fn from_bits_truncate(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it has `metric`.
    pub const fn contains(self, metric: Metric) -> bool {
        self.0 & (1 << metric.id()) != 0
    }

    /// Adds `metric`.
    pub const fn insert(&mut self, metric: Metric) {
        self.0 |= 1 << metric.id();
    }

    /// Removes `metric`.
    pub const fn remove(&mut self, metric: Metric) {
        self.0 &= !(1 << metric.id());
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many it has.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Its metrics in the order of their ids.
    pub fn iter(self) -> impl Iterator<Item = Metric> {
        Metric::ALL.into_iter().filter(move |metric| self.contains(*metric))
    }
}

impl FromIterator<Metric> for MetricSet {
    fn from_iter<I: IntoIterator<Item = Metric>>(metrics: I) -> Self {
        let mut set = Self::EMPTY;
        for metric in metrics {
            set.insert(metric);
        }
        set
    }
}

impl fmt::Debug for MetricSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Metric::name)).finish()
    }
}

/// The values of some metrics, as counts of their resolutions.
///
/// A metric that was not measured is absent, which is not the same as 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Values {
    present: MetricSet,
    // An absent metric's count is 0, so that derived equality is equality of what is present.
    counts: [i64; Metric::COUNT],
}

impl Values {
    /// No values.
    pub const EMPTY: Self = Self { present: MetricSet::EMPTY, counts: [0; Metric::COUNT] };

    /// Which metrics have a value.
    pub const fn present(&self) -> MetricSet {
        self.present
    }

    /// The count of `metric`, if it has one.
    pub fn get(&self, metric: Metric) -> Option<i64> {
        self.present.contains(metric).then(|| self.counts[metric.index()])
    }

    /// Gives `metric` a count.
    pub fn set(&mut self, metric: Metric, count: i64) {
        self.present.insert(metric);
        self.counts[metric.index()] = count;
    }

    /// Takes the count of `metric` away.
    pub fn clear(&mut self, metric: Metric) {
        self.present.remove(metric);
        self.counts[metric.index()] = 0;
    }

    /// The metrics that have a value, with it, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, i64)> + '_ {
        self.present.iter().map(|metric| (metric, self.counts[metric.index()]))
    }
}

impl FromIterator<(Metric, i64)> for Values {
    fn from_iter<I: IntoIterator<Item = (Metric, i64)>>(pairs: I) -> Self {
        let mut values = Self::EMPTY;
        for (metric, count) in pairs {
            values.set(metric, count);
        }
        values
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(metric, count)| (metric.name(), count))).finish()
    }
}

/// The bits of the set, then one count per metric in the order of ids.
impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = self.iter();
        let mut tuple = serializer.serialize_tuple(1 + self.present.iter().count())?;
        tuple.serialize_element(&self.present)?;
        for (_, count) in counts {
            tuple.serialize_element(&count)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counts;

        impl<'de> Visitor<'de> for Counts {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set of metrics and one count for each")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Values, A::Error> {
                let present: MetricSet =
                    parts.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let mut values = Values::EMPTY;
                for (index, metric) in present.iter().enumerate() {
                    let count = parts.next_element()?;
                    let count = count.ok_or_else(|| A::Error::invalid_length(1 + index, &self))?;
                    values.set(metric, count);
                }
                Ok(values)
            }
        }

        deserializer.deserialize_tuple(1 + Metric::COUNT, Counts)
    }
}

/// A group of metrics that is collected together: what the `metrics` list of the configuration switches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricSwitch {
    /// `cpu`
    Cpu,
    /// `memory`
    Memory,
    /// `disk_read`
    DiskRead,
    /// `disk_write`
    DiskWrite,
    /// `net_in`
    NetIn,
    /// `net_out`
    NetOut,
    /// `load`: load averages.
    Load,
    /// `swap`
    Swap,
    /// `disk_usage`: of the root file system.
    DiskUsage,
    /// `temperature`
    Temperature,
    /// `uptime`
    Uptime,
    /// `agent`: what the agent itself costs.
    Agent,
    /// `standard`: all of the above.
    Standard,
}

impl MetricSwitch {
    /// All switches but the profile, in the usual order.
    pub const SINGLE: [Self; 12] = [
        Self::Cpu,
        Self::Memory,
        Self::DiskRead,
        Self::DiskWrite,
        Self::NetIn,
        Self::NetOut,
        Self::Load,
        Self::Swap,
        Self::DiskUsage,
        Self::Temperature,
        Self::Uptime,
        Self::Agent,
    ];

    /// The name in configuration; on input a blank counts as an underscore.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::DiskRead => "disk_read",
            Self::DiskWrite => "disk_write",
            Self::NetIn => "net_in",
            Self::NetOut => "net_out",
            Self::Load => "load",
            Self::Swap => "swap",
            Self::DiskUsage => "disk_usage",
            Self::Temperature => "temperature",
            Self::Uptime => "uptime",
            Self::Agent => "agent",
            Self::Standard => "standard",
        }
    }

    /// The metrics that it switches on.
    pub fn metrics(self) -> MetricSet {
        let metrics: &[Metric] = match self {
            Self::Cpu => &[Metric::CpuPercent],
            Self::Memory => &[Metric::MemoryPercent, Metric::MemoryUsed, Metric::MemoryTotal],
            Self::DiskRead => &[Metric::DiskRead],
            Self::DiskWrite => &[Metric::DiskWrite],
            Self::NetIn => &[Metric::NetIn],
            Self::NetOut => &[Metric::NetOut],
            Self::Load => &[Metric::Load1, Metric::Load5, Metric::Load15],
            Self::Swap => &[Metric::SwapUsed, Metric::SwapTotal],
            Self::DiskUsage => &[Metric::DiskPercent, Metric::DiskUsed, Metric::DiskTotal],
            Self::Temperature => &[Metric::Temperature],
            Self::Uptime => &[Metric::Uptime],
            Self::Agent => &[Metric::AgentMemory, Metric::AgentCpu, Metric::AgentBuffer],
            Self::Standard => &Metric::ALL,
        };
        metrics.iter().copied().collect()
    }

    /// The switches that are on when `metrics` are collected.
    pub fn all_in(metrics: MetricSet) -> impl Iterator<Item = Self> {
        Self::SINGLE
            .into_iter()
            .filter(move |switch| !switch.metrics().intersection(metrics).is_empty())
    }
}

impl FromStr for MetricSwitch {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        let matches = |switch: &Self| {
            switch.name().len() == name.len()
                && switch
                    .name()
                    .bytes()
                    .zip(name.bytes())
                    .all(|(ours, theirs)| ours == theirs || (ours == b'_' && theirs == b' '))
        };
        Self::SINGLE.into_iter().chain([Self::Standard]).find(matches).ok_or(UnknownMetric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_positions() {
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric.index(), index);
            assert_eq!(Metric::from_id(u32::from(metric.id())), Some(metric));
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        assert_eq!(Metric::from_id(21), None);
        assert_eq!("cpu".parse::<Metric>(), Err(UnknownMetric));
    }

    #[test]
    fn values_tell_absent_from_zero() {
        let mut values = Values::EMPTY;
        assert_eq!(values.get(Metric::DiskRead), None);
        values.set(Metric::DiskRead, 0);
        assert_eq!(values.get(Metric::DiskRead), Some(0));
        assert_ne!(values, Values::EMPTY);
        values.set(Metric::DiskRead, 7);
        values.clear(Metric::DiskRead);
        assert_eq!(values, Values::EMPTY);
    }

    #[test]
    fn switches_accept_the_blank_form_and_cover_every_metric() {
        assert_eq!("disk read".parse(), Ok(MetricSwitch::DiskRead));
        assert_eq!("disk_read".parse(), Ok(MetricSwitch::DiskRead));
        assert_eq!("disk-read".parse::<MetricSwitch>(), Err(UnknownMetric));
        assert_eq!("".parse::<MetricSwitch>(), Err(UnknownMetric));
        let covered = MetricSwitch::SINGLE
            .into_iter()
            .fold(MetricSet::EMPTY, |set, s| set.union(s.metrics()));
        assert_eq!(covered, MetricSet::ALL);
        assert_eq!("standard".parse::<MetricSwitch>().map(MetricSwitch::metrics), Ok(covered));
    }

    #[test]
    fn unknown_bits_are_dropped() {
        assert_eq!(MetricSet::from_bits_truncate(u64::MAX), MetricSet::ALL);
        assert_eq!(MetricSet::ALL.len(), 21);
        assert_eq!(MetricSet::FIXED.len(), 8);
    }
}
