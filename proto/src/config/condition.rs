//! The text form of the filter's condition.
//!
//! ```text
//! condition  = comparison { ("and" | "or") comparison }     "and" binds closer
//! comparison = metric ("<" | "<=" | ">" | ">=" | "==" | "!=") number
//! number     = ["-"] digits ["." digits]                    in the metric's unit
//! ```
//!
//! Blanks may stand between any two of these.

use std::fmt;
use std::ops::Range;

use agent_core::config::{Comparison, Condition, Joint, Term};
use agent_core::limits::CONDITION_TERMS_MAX;
use agent_core::metric::Metric;
use winnow::ascii::{digit1, multispace0};
use winnow::combinator::{eof, opt, preceded};
use winnow::error::{ContextError, StrContext, StrContextValue};
use winnow::stream::LocatingSlice;
use winnow::token::take_while;
use winnow::{Parser, Result};

use super::decimal::{Decimal, Product};

type Input<'i> = LocatingSlice<&'i str>;

/// Why a text is no condition, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub(super) struct ConditionError {
    /// In characters, from 1.
    column: usize,
    reason: String,
}

impl ConditionError {
    fn new(text: &str, offset: usize, reason: impl fmt::Display) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        Self { column: before.chars().count() + 1, reason: reason.to_string() }
    }
}

/// A part of the text, and the bytes that it takes there.
type Spanned<'i> = (&'i str, Range<usize>);

/// A comparison as it was written.
#[derive(Debug)]
struct Written<'i> {
    joint: Joint,
    metric: Spanned<'i>,
    comparison: Comparison,
    number: Spanned<'i>,
}

/// Reads a condition.
pub(super) fn parse(text: &str) -> Result<Condition, ConditionError> {
    let written = condition.parse(LocatingSlice::new(text)).map_err(|error| {
        let found = if text.len() <= error.offset() { ", found the end" } else { "" };
        ConditionError::new(text, error.offset(), format!("{}{found}", error.inner()))
    })?;
    if let Some(excess) = written.get(CONDITION_TERMS_MAX) {
        let reason = format!("at most {CONDITION_TERMS_MAX} comparisons are allowed");
        return Err(ConditionError::new(text, excess.metric.1.start, reason));
    }
    let terms = written.iter().map(|written| term(text, written)).collect::<Result<Vec<_>, _>>()?;
    Condition::new(&terms).map_err(|error| ConditionError::new(text, 0, error))
}

fn term(text: &str, written: &Written<'_>) -> Result<Term, ConditionError> {
    let (name, at) = &written.metric;
    let metric = name.parse::<Metric>().map_err(|_| {
        let known = Metric::ALL.map(Metric::name).join(", ");
        let reason = format!("unknown metric {name:?}; known are {known}");
        ConditionError::new(text, at.start, reason)
    })?;
    let (number, at) = &written.number;
    let (comparison, count) = counted(metric, written.comparison, number)
        .map_err(|reason| ConditionError::new(text, at.start, reason))?;
    Ok(Term { joint: written.joint, metric, comparison, count })
}

/// What comparing with a number of units is in counts. A number between two counts keeps its meaning: above 20.005 % are
/// the counts above 2000, and below it those below 2001.
fn counted(
    metric: Metric,
    comparison: Comparison,
    number: &str,
) -> Result<(Comparison, i64), String> {
    let decimal = number.parse::<Decimal>().map_err(|error| format!("{number} {error}"))?;
    let count = match (decimal.times(metric.counts_per_unit()), comparison) {
        (Product::Whole(count), _) => count,
        (Product::Above(count), Comparison::LessOrEqual | Comparison::Greater) => count,
        (Product::Above(count), Comparison::Less | Comparison::GreaterOrEqual) => count + 1,
        (Product::Above(_), Comparison::Equal | Comparison::NotEqual) => {
            return Err(format!(
                "{metric} is counted in steps of 1/{} {}, so it is never {number}",
                metric.counts_per_unit(),
                metric.unit(),
            ));
        }
    };
    let count = i64::try_from(count).map_err(|_| format!("{number} is out of range"))?;
    Ok((comparison, count))
}

fn condition<'i>(input: &mut Input<'i>) -> Result<Vec<Written<'i>>> {
    let first = preceded(multispace0, comparison(Joint::And)).parse_next(input)?;
    let mut all = vec![first];
    while let Some(joint) = opt(preceded(multispace0, joint)).parse_next(input)? {
        all.push(preceded(multispace0, comparison(joint)).parse_next(input)?);
    }
    (multispace0, eof).context(expected("`and`, `or` or the end")).parse_next(input)?;
    Ok(all)
}

fn comparison<'i>(joint: Joint) -> impl Parser<Input<'i>, Written<'i>, ContextError> {
    (
        word.with_span().context(expected("the name of a metric")),
        preceded(multispace0, operator.context(expected("one of < <= > >= == !="))),
        preceded(multispace0, number.with_span().context(expected("a number"))),
    )
        .map(move |(metric, comparison, number)| Written { joint, metric, comparison, number })
}

fn joint(input: &mut Input<'_>) -> Result<Joint> {
    let joint = |word| match word {
        "and" => Some(Joint::And),
        "or" => Some(Joint::Or),
        _ => None,
    };
    word.verify_map(joint).parse_next(input)
}

fn operator(input: &mut Input<'_>) -> Result<Comparison> {
    let known = |symbol: &str| Comparison::ALL.into_iter().find(|known| known.symbol() == symbol);
    take_while(1.., ['<', '>', '=', '!']).verify_map(known).parse_next(input)
}

fn word<'i>(input: &mut Input<'i>) -> Result<&'i str> {
    take_while(1.., ('a'..='z', 'A'..='Z', '0'..='9', '_')).parse_next(input)
}

fn number<'i>(input: &mut Input<'i>) -> Result<&'i str> {
    (opt('-'), digit1, opt(('.', digit1))).take().parse_next(input)
}

const fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The condition in counts.
    fn describe(condition: &Condition) -> String {
        let terms = condition.terms().iter().enumerate().map(|(index, term)| {
            let joint = match term.joint {
                _ if index == 0 => "",
                Joint::And => " and ",
                Joint::Or => " or ",
            };
            format!("{joint}{} {} {}", term.metric, term.comparison.symbol(), term.count)
        });
        terms.collect()
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(parse(text).map(|condition| describe(&condition)), Ok(expected.to_owned()));
    }

    fn check_refused(text: &str, expected: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }

    #[test]
    fn conditions_are_read() {
        check(
            "cpu_percent > 20 and net_in_mb >= 0.5 or memory_percent > 90",
            "cpu_percent > 2000 and net_in_mb >= 524288 or memory_percent > 9000",
        );
        check(" cpu_percent<20\tor\nload1!=1.25 ", "cpu_percent < 2000 or load1 != 125");
        check("temperature_celsius <= -5", "temperature_celsius <= -5000");
        check("uptime_seconds == 0.001", "uptime_seconds == 1");
    }

    #[test]
    fn a_number_between_two_counts_keeps_its_meaning() {
        check("cpu_percent > 20.005", "cpu_percent > 2000");
        check("cpu_percent >= 20.005", "cpu_percent >= 2001");
        check("cpu_percent < 20.005", "cpu_percent < 2001");
        check("cpu_percent <= 20.005", "cpu_percent <= 2000");
        check("temperature_celsius > -0.0005", "temperature_celsius > -1");
        check("temperature_celsius < -0.0005", "temperature_celsius < 0");
        check_refused(
            "cpu_percent > 1 or cpu_percent == 20.005",
            "column 35: cpu_percent is counted in steps of 1/100 %, so it is never 20.005",
        );
        check_refused(
            "net_in_mb != 0.1",
            "column 14: net_in_mb is counted in steps of 1/1048576 MB/s",
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_column() {
        check_refused("", "column 1: expected the name of a metric, found the end");
        check_refused("  ", "column 3: expected the name of a metric, found the end");
        check_refused("> 5", "column 1: expected the name of a metric");
        check_refused("cpu > 5", "column 1: unknown metric \"cpu\"; known are cpu_percent, ");
        check_refused("cpu_percent", "column 12: expected one of < <= > >= == !=, found the end");
        check_refused("cpu_percent = 5", "column 13: expected one of < <= > >= == !=");
        check_refused("cpu_percent => 5", "column 13: expected one of");
        check_refused("cpu_percent > ", "column 15: expected a number, found the end");
        check_refused("cpu_percent > many", "column 15: expected a number");
        check_refused("cpu_percent > - 5", "column 16: expected a number");
        check_refused("cpu_percent > 5e3", "column 16: expected `and`, `or` or the end");
        check_refused(
            "cpu_percent > 5 xor load1 > 1",
            "column 17: expected `and`, `or` or the end",
        );
        check_refused("cpu_percent > 5 and", "column 20: expected the name of a metric, found");
        check_refused("cpu_percent > 5 andload1 > 1", "column 17: expected `and`");
        check_refused("(cpu_percent > 5)", "column 1: expected the name of a metric");
        check_refused("cpu_percent > 5 or é", "column 20: expected the name of a metric");
        check_refused(
            "cpu_percent > 9999999999999999999",
            "column 15: 9999999999999999999 has more",
        );
        check_refused("net_in_mb > 99999999999999999", "column 13: 99999999999999999 is out of");
        let many = ["load1 > 1"; CONDITION_TERMS_MAX + 1].join(" or ");
        check_refused(&many, "column 105: at most 8 comparisons are allowed");
    }

    fn any_comparison() -> impl Strategy<Value = Comparison> {
        prop::sample::select(Comparison::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([a-z_ ]|cpu_percent|and|or|[0-9.<>=!-]|\\PC)*") {
            parse(&text).ok();
        }

        #[test]
        fn a_count_meets_the_condition_when_its_units_do(
            thousandths in -30_000_i64..30_000,
            comparison in any_comparison(),
            count in -3000_i64..3000,
        ) {
            let sign = if thousandths < 0 { "-" } else { "" };
            let size = thousandths.unsigned_abs();
            let text = format!("{sign}{}.{:03}", size / 1000, size % 1000);
            let holds = |left: i64, comparison, right: i64| match comparison {
                Comparison::Less => left < right,
                Comparison::LessOrEqual => left <= right,
                Comparison::Greater => left > right,
                Comparison::GreaterOrEqual => left >= right,
                Comparison::Equal => left == right,
                Comparison::NotEqual => left != right,
            };
            if let Ok((counted, limit)) = counted(Metric::CpuPercent, comparison, &text) {
                // Hundredths of a percent beside thousandths.
                prop_assert_eq!(
                    holds(count, counted, limit),
                    holds(count * 10, comparison, thousandths)
                );
            } else {
                prop_assert_ne!(thousandths % 10, 0);
            }
        }
    }
}
