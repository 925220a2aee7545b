//! Which network interfaces count.

use std::path::{Path, PathBuf};
use std::str;

/// The interfaces of a host, and which of them count.
///
/// Bridges, tunnels, VLANs and container links carry bytes that a hardware interface carries too, so where there
/// is hardware only it counts. Where there is none, as in a container, every interface but loopback counts; so it does
/// where no `/sys` says what is hardware.
#[derive(Debug)]
pub(super) struct Interfaces {
    class_dir: PathBuf,
    // The kinds are looked up again only when this list changes.
    names: Vec<Box<[u8]>>,
    /// counting.len() == names.len()
    counting: Vec<bool>,
}

impl Interfaces {
    /// The interfaces that `class_dir` describes, as `/sys/class/net` does.
    pub(super) fn new(class_dir: PathBuf) -> Self {
        Self { class_dir, names: Vec::new(), counting: Vec::new() }
    }

    /// For each of `names` whether it counts. Allocates only when the list is not that of the last time.
    pub(super) fn counting<'a>(
        &mut self,
        names: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> impl Iterator<Item = bool> {
        if !names.clone().eq(self.names.iter().map(|name| &**name)) {
            self.names = names.map(Into::into).collect();
            self.counting = counting(&self.names, |name| is_hardware(&self.class_dir, name));
        }
        self.counting.iter().copied()
    }
}

/// The kernel links an interface to its device only if it has one.
fn is_hardware(class_dir: &Path, name: &[u8]) -> bool {
    str::from_utf8(name)
        .is_ok_and(|name| !name.contains('/') && class_dir.join(name).join("device").exists())
}

fn counting(names: &[Box<[u8]>], is_hardware: impl Fn(&[u8]) -> bool) -> Vec<bool> {
    let hardware = names.iter().map(|name| is_hardware(name)).collect::<Vec<_>>();
    if hardware.contains(&true) {
        return hardware;
    }
    let is_loopback = |name: &[u8]| name == b"lo" || name.starts_with(b"lo0");
    names.iter().map(|name| !is_loopback(name)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Host {
        class_dir: tempfile::TempDir,
        interfaces: Interfaces,
    }

    impl Host {
        fn new(hardware: &[&str]) -> Self {
            let class_dir = tempfile::tempdir().unwrap();
            for name in hardware {
                fs::create_dir_all(class_dir.path().join(name).join("device")).unwrap();
            }
            let interfaces = Interfaces::new(class_dir.path().to_owned());
            Self { class_dir, interfaces }
        }

        fn check(&mut self, names: &[&str], expected: &[&str]) {
            let counting = self.interfaces.counting(names.iter().map(|name| name.as_bytes()));
            let counted = names.iter().zip(counting).filter(|(_, counts)| *counts);
            assert_eq!(counted.map(|(name, _)| *name).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn loopback_and_virtual_interfaces_do_not_count_twice() {
        Host::new(&["eth0"]).check(&["lo", "eth0", "docker0", "veth12"], &["eth0"]);
        Host::new(&["eth0", "wlan0"]).check(&["eth0", "wlan0", "wg0"], &["eth0", "wlan0"]);
        Host::new(&["eth0"]).check(&["wlan0", "eth0"], &["eth0"]);
        Host::new(&["lo", "eth0"]).check(&[], &[]);
    }

    #[test]
    fn without_hardware_or_sysfs_all_but_loopback_count() {
        Host::new(&[]).check(&["lo", "eth0"], &["eth0"]);
        Host::new(&[]).check(&["lo"], &[]);
        let mut host = Host::new(&["eth0"]);
        fs::remove_dir_all(host.class_dir.path()).unwrap();
        host.check(&["lo", "eth0", "tun0"], &["eth0", "tun0"]);
    }

    #[test]
    fn interfaces_that_come_or_go_are_looked_at() {
        let mut host = Host::new(&["eth0"]);
        host.check(&["lo", "tun0"], &["tun0"]);
        host.check(&["lo", "tun0", "eth0"], &["eth0"]);
        host.check(&["lo", "tun0"], &["tun0"]);
    }

    #[test]
    fn a_name_that_is_no_text_or_a_path_is_no_hardware() {
        let mut host = Host::new(&["eth0"]);
        let names: [&[u8]; 3] = [b"\xff", b"../eth0", b"eth0"];
        let counting = host.interfaces.counting(names.into_iter());
        assert_eq!(counting.collect::<Vec<_>>(), [false, false, true]);
    }
}
