//! Plugins of the user's own, which a program adds at compile time.
//!
//! A plugin is a type that implements [`Plugin`] and [`OwnPlugin`]. One line makes the list of those that a program has:
//!
//! ```
//! # use agent_core::plugin::{Plugin, Verdict, DropReason, own::{OwnPlugin, Parameters}};
//! # use agent_core::{config::Settings, record::{Alert, Sample}};
//! # #[derive(Clone, Debug)] pub struct EveryNth { n: i64, seen: i64 }
//! # impl Plugin for EveryNth {
//! #     fn process(&mut self, _: &mut Sample, _: &mut dyn FnMut(Alert)) -> Verdict {
//! #         self.seen += 1;
//! #         if self.seen % self.n == 1 { Verdict::Forward } else { Verdict::Drop(DropReason::Own) }
//! #     }
//! #     fn reconfigure(&mut self, _: &Settings, _: &mut dyn FnMut(Alert)) {}
//! # }
//! # impl OwnPlugin for EveryNth {
//! #     const NAME: &'static str = "own.every_nth";
//! #     fn new(parameters: &Parameters) -> Self { Self { n: parameters[0].max(1), seen: 0 } }
//! # }
//! agent_core::own_plugins!(pub enum Mine { EveryNth });
//!
//! type Agent = agent_core::agent::Agent<65_536, 4, Mine>;
//! ```
//!
//! In configuration it stands in the list `plugins` like a built-in one, under its name; up to
//! [`OWN_PARAMETERS_MAX`] numbers can be given to it. Its counters stand beside those of the others.

use core::fmt::Debug;

use crate::limits::OWN_PARAMETERS_MAX;
use crate::plugin::{OwnIndex, Plugin};

/// What configures one of the user's own plugins: numbers whose meaning it says itself; those not given are 0.
pub type Parameters = [i64; OWN_PARAMETERS_MAX];

/// A plugin of the user's own.
///
/// When its parameters change it is flushed and made anew; [`Plugin::reconfigure`] is called when anything else in the
/// configuration does.
pub trait OwnPlugin: Plugin + Clone + Debug {
    /// Its name in configuration and counters: `own.` and a word of `a` to `z`, `0` to `9` and `_`.
    const NAME: &'static str;

    /// A plugin that has seen nothing. Any parameters must be taken: what is out of range is clamped.
    fn new(parameters: &Parameters) -> Self;
}

/// A program's own plugins; [`own_plugins!`](crate::own_plugins) writes it.
pub trait OwnPlugins: Clone + Debug + Sized {
    /// Their names, at most [`crate::limits::OWN_PLUGINS_MAX`].
    const NAMES: &'static [&'static str];

    /// The plugin at `index`, if there is one.
    fn new(index: OwnIndex, parameters: &Parameters) -> Option<Self>;

    /// The plugin itself.
    fn plugin(&self) -> &dyn Plugin;

    /// The plugin itself.
    fn plugin_mut(&mut self) -> &mut dyn Plugin;
}

/// No plugins of one's own.
#[derive(Clone, Copy, Debug)]
pub enum NoPlugins {}

impl OwnPlugins for NoPlugins {
    const NAMES: &'static [&'static str] = &[];

    fn new(_: OwnIndex, _: &Parameters) -> Option<Self> {
        None
    }

    fn plugin(&self) -> &dyn Plugin {
        match *self {}
    }

    fn plugin_mut(&mut self) -> &mut dyn Plugin {
        match *self {}
    }
}

/// Whether every name is `own.` and a word, no two are the same, and there are not too many; checked at compile time.
#[doc(hidden)]
pub const fn names_are_sound(names: &[&str]) -> bool {
    let mut index = 0;
    while index < names.len() {
        if !is_sound(names[index].as_bytes()) {
            return false;
        }
        let mut other = 0;
        while other < index {
            if equal(names[index].as_bytes(), names[other].as_bytes()) {
                return false;
            }
            other += 1;
        }
        index += 1;
    }
    names.len() <= crate::limits::OWN_PLUGINS_MAX
}

/// Whether `name` is `own.` and a word of `a` to `z`, `0` to `9` and `_`, 32 bytes in all at most.
pub const fn is_sound(name: &[u8]) -> bool {
    let Some((b"own.", word)) = name.split_first_chunk() else {
        return false;
    };
    let mut index = 0;
    while index < word.len() {
        if !matches!(word[index], b'a'..=b'z' | b'0'..=b'9' | b'_') {
            return false;
        }
        index += 1;
    }
    !word.is_empty() && name.len() <= 32
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// Makes an enum of a program's own plugins, to be named as the last parameter of [`crate::agent::Agent`].
#[macro_export]
macro_rules! own_plugins {
    ($(#[$attribute:meta])* $visibility:vis enum $name:ident { $($plugin:ident),+ $(,)? }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug)]
        $visibility enum $name {
            $(
                #[doc = concat!("See [`", stringify!($plugin), "`].")]
                $plugin($plugin),
            )+
        }

        const _: () = assert!(
            $crate::plugin::own::names_are_sound(
                <$name as $crate::plugin::own::OwnPlugins>::NAMES
            ),
            "names of own plugins are `own.` and a word, differ, and are at most 4",
        );

        impl $crate::plugin::own::OwnPlugins for $name {
            const NAMES: &'static [&'static str] =
                &[$(<$plugin as $crate::plugin::own::OwnPlugin>::NAME),+];

            fn new(
                index: $crate::plugin::OwnIndex,
                parameters: &$crate::plugin::own::Parameters,
            ) -> ::core::option::Option<Self> {
                let makers: &[fn(&$crate::plugin::own::Parameters) -> Self] = &[$(
                    |parameters| {
                        Self::$plugin(<$plugin as $crate::plugin::own::OwnPlugin>::new(parameters))
                    }
                ),+];
                makers.get(index.get()).map(|make| make(parameters))
            }

            fn plugin(&self) -> &dyn $crate::plugin::Plugin {
                match self {
                    $(Self::$plugin(plugin) => plugin,)+
                }
            }

            fn plugin_mut(&mut self) -> &mut dyn $crate::plugin::Plugin {
                match self {
                    $(Self::$plugin(plugin) => plugin,)+
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(names_are_sound(&["own.a", "own.every_2nd"]));
        for bad in ["", "a", "own.", "own.A", "own.a.b", "owna", "filter"] {
            assert!(!names_are_sound(&[bad]), "{bad:?}");
        }
        assert!(!names_are_sound(&["own.a", "own.a"]));
        assert!(!names_are_sound(&["own.a", "own.b", "own.c", "own.d", "own.e"]));
    }
}
