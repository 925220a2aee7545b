//! What `monitor` says at the end.

use std::io::{self, Write};

use proto::convert::units_from_count;
use serde_json::json;

use crate::cli::Output;
use crate::stats::Summary;
use crate::view::grid::{Align, Grid};
use crate::view::{json, value};

pub(crate) fn write(summary: &Summary, output: Output, out: &mut dyn Write) -> io::Result<()> {
    if output == Output::Json {
        return write_json(summary, out);
    }
    let mut grid = Grid::new(&[
        ("agent", Align::Left),
        ("metric", Align::Left),
        ("count", Align::Right),
        ("min", Align::Right),
        ("mean", Align::Right),
        ("max", Align::Right),
        ("p95", Align::Right),
    ]);
    for (agent_id, metric, figures) in summary.iter() {
        let shown = |count| match output {
            Output::Csv => units_from_count(metric, count).to_string(),
            Output::Table | Output::Json => value(metric, count),
        };
        grid.push(vec![
            agent_id.to_owned(),
            metric.name().to_owned(),
            figures.count.to_string(),
            shown(figures.min),
            shown(figures.mean),
            shown(figures.max),
            shown(figures.p95),
        ]);
    }
    match output {
        Output::Csv => grid.write_csv(out),
        Output::Table | Output::Json => grid.write_table(out),
    }
}

fn write_json(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    for (agent_id, metric, figures) in summary.iter() {
        let units = |count| units_from_count(metric, count);
        let value = json!({
            "agent_id": agent_id,
            "metric": metric.name(),
            "unit": metric.unit(),
            "count": figures.count,
            "min": units(figures.min),
            "mean": units(figures.mean),
            "max": units(figures.max),
            "p95": units(figures.p95),
        });
        json::write_line(out, &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_core::metric::Metric;

    use super::*;

    fn check(output: Output, expected: &str) {
        let mut summary = Summary::default();
        for count in [1_000, 2_000] {
            let values = [(Metric::CpuPercent, count)].into_iter().collect();
            summary.add("web-1", &values).unwrap();
        }
        let mut bytes = Vec::new();
        write(&summary, output, &mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn every_form_has_the_same_figures() {
        check(
            Output::Table,
            "\
AGENT  METRIC       COUNT    MIN   MEAN    MAX    P95
web-1  cpu_percent      2  10.00  15.00  20.00  20.00
",
        );
        check(
            Output::Csv,
            "\
agent,metric,count,min,mean,max,p95
web-1,cpu_percent,2,10,15,20,20
",
        );
        check(
            Output::Json,
            concat!(
                r#"{"agent_id":"web-1","metric":"cpu_percent","unit":"%","count":2,"#,
                r#""min":10.0,"mean":15.0,"max":20.0,"p95":20.0}"#,
                "\n"
            ),
        );
    }
}
