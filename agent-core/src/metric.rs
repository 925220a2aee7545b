//! What can be measured: the metrics, their resolutions, and a set of values.

use core::fmt;
use core::str::FromStr;

/// Counts of a percent metric in one percent.
const PERCENT: i64 = 100;
/// Counts of a byte metric in one MB (1,048,576 B).
const MEGABYTE: i64 = 1_048_576;

/// A metric. The discriminant is its id on the wire; ids are never reused.
///
/// Inside the core a value is an `i64` count of the metric's resolution (see [`Metric::counts_per_unit`]), so
/// that equality is exact and no floating point unit is needed.
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
}

impl Metric {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All metrics in the order of their ids.
    pub const ALL: [Self; 8] = [
        Self::CpuPercent,
        Self::MemoryPercent,
        Self::MemoryUsed,
        Self::MemoryTotal,
        Self::DiskRead,
        Self::DiskWrite,
        Self::NetIn,
        Self::NetOut,
    ];

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
        match self {
            Self::CpuPercent => "cpu_percent",
            Self::MemoryPercent => "memory_percent",
            Self::MemoryUsed => "memory_used_mb",
            Self::MemoryTotal => "memory_total_mb",
            Self::DiskRead => "disk_read_mb",
            Self::DiskWrite => "disk_write_mb",
            Self::NetIn => "net_in_mb",
            Self::NetOut => "net_out_mb",
        }
    }

    /// The unit of the metric outside the core.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::CpuPercent | Self::MemoryPercent => "%",
            Self::MemoryUsed | Self::MemoryTotal => "MB",
            Self::DiskRead | Self::DiskWrite | Self::NetIn | Self::NetOut => "MB/s",
        }
    }

    /// How many counts make one unit: value in units = count / `counts_per_unit`.
    pub const fn counts_per_unit(self) -> i64 {
        match self {
            Self::CpuPercent | Self::MemoryPercent => PERCENT,
            Self::MemoryUsed
            | Self::MemoryTotal
            | Self::DiskRead
            | Self::DiskWrite
            | Self::NetIn
            | Self::NetOut => MEGABYTE,
        }
    }

    /// Whether it is a rate over an interval, so that the first snapshot cannot have it.
    pub const fn is_rate(self) -> bool {
        matches!(self, Self::DiskRead | Self::DiskWrite | Self::NetIn | Self::NetOut)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The count of [`Metric::MemoryPercent`] for `used` bytes of `total`, rounded to the nearest; none without a total.
///
/// Collectors compute it here and nowhere else, so that the codec can predict it.
pub fn memory_percent(used: i64, total: i64) -> Option<i64> {
    let scaled = i128::from(used) * i128::from(100 * PERCENT) + i128::from(total) / 2;
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
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MetricSet(u64);

const _: () = assert!(Metric::COUNT <= 64, "a MetricSet has 64 bits");

impl MetricSet {
    /// No metric.
    pub const EMPTY: Self = Self(0);
    /// Every metric.
    pub const ALL: Self = Self((1 << Metric::COUNT) - 1);

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
}

impl MetricSwitch {
    /// All switches, in the usual order.
    pub const ALL: [Self; 6] =
        [Self::Cpu, Self::Memory, Self::DiskRead, Self::DiskWrite, Self::NetIn, Self::NetOut];

    /// The name in configuration; on input a blank counts as an underscore.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::DiskRead => "disk_read",
            Self::DiskWrite => "disk_write",
            Self::NetIn => "net_in",
            Self::NetOut => "net_out",
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
        };
        metrics.iter().copied().collect()
    }

    /// The switches that are on when `metrics` are collected.
    pub fn all_in(metrics: MetricSet) -> impl Iterator<Item = Self> {
        Self::ALL
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
        Self::ALL.into_iter().find(matches).ok_or(UnknownMetric)
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
        assert_eq!(Metric::from_id(8), None);
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
        let covered =
            MetricSwitch::ALL.into_iter().fold(MetricSet::EMPTY, |set, s| set.union(s.metrics()));
        assert_eq!(covered, MetricSet::ALL);
    }

    #[test]
    fn unknown_bits_are_dropped() {
        assert_eq!(MetricSet::from_bits_truncate(u64::MAX), MetricSet::ALL);
        assert_eq!(MetricSet::ALL.len(), 8);
    }
}
