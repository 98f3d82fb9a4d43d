//! PURE. Pictures of a day: curves over the hours, with what went wrong as shaded bands.
//!
//! Inputs: series, bands. Output: SVG to stand in a page of HTML, whose style sheet gives the colours by class. Refuses
//! scripts: what a mark says it says by its `<title>`.

use super::figures::Band;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
/// Above the curves: two rows of names of bands.
const TOP: f64 = 34.0;
const BOTTOM: f64 = 24.0;

/// A curve: its class in the style sheet, whether what is below it is filled, and a value for each step.
pub(super) struct Series {
    pub(super) class: &'static str,
    pub(super) filled: bool,
    pub(super) values: Vec<f64>,
}

/// How values stand on the vertical axis.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// Seconds, each tenfold as far up as before, from and to these.
    Logarithmic(f64, f64),
}

/// A picture over the day's hours.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) height: f64,
    /// Hours that the whole width is.
    pub(super) hours: f64,
    /// Bands begin and end at seconds; so many are an hour of the axis.
    pub(super) hour_seconds: f64,
    pub(super) bands: &'a [Band],
    pub(super) scale: Scale,
    /// What a value of the axis is called.
    pub(super) name: fn(f64) -> String,
    pub(super) series: Vec<Series>,
}

impl Chart<'_> {
    fn x(&self, hour: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (hour / self.hours).clamp(0.0, 1.0)
    }

    /// The highest value, as the axis has it.
    fn highest(&self) -> f64 {
        match self.scale {
            Scale::Logarithmic(_, to) => to,
            Scale::Linear => {
                let most = self.series.iter().flat_map(|s| &s.values).copied().fold(1.0, f64::max);
                let power = 10_f64.powf(most.log10().floor());
                [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0]
                    .map(|n| n * power)
                    .into_iter()
                    .find(|n| *n >= most)
                    .unwrap_or(most)
            }
        }
    }

    fn y(&self, value: f64) -> f64 {
        let part = match self.scale {
            Scale::Linear => value / self.highest(),
            Scale::Logarithmic(from, to) => (value.max(from) / from).ln() / (to / from).ln(),
        };
        TOP + (self.height - TOP - BOTTOM) * (1.0 - part.clamp(0.0, 1.0))
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => (0..=4).map(|n| self.highest() * f64::from(n) / 4.0).collect(),
            Scale::Logarithmic(from, to) => {
                let all = [1e-3, 1e-2, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0];
                all.into_iter().filter(|tick| (from..=to).contains(tick)).collect()
            }
        }
    }

    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        let (height, floor) = (self.height, self.height - BOTTOM);
        let title = self.title;
        let _ = writeln!(out, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">");
        self.write_bands(&mut out);
        for tick in self.ticks() {
            let y = self.y(tick);
            let name = (self.name)(tick);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"axis\" x=\"{:.1}\" \
                 y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0
            );
        }
        let every = if self.hours > 30.0 { 12 } else { 3 };
        for hour in (0..=self.hours as u32).step_by(every) {
            let x = self.x(f64::from(hour));
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{floor}\" y2=\"{:.1}\"/><text class=\"axis\" x=\"{x:.1}\" \
                 y=\"{:.1}\" text-anchor=\"middle\">{hour:02}:00</text>",
                floor + 4.0,
                floor + 18.0
            );
        }
        for series in &self.series {
            self.write_series(series, &mut out);
        }
        out += "</svg>\n";
        out
    }

    fn write_bands(&self, out: &mut String) {
        let floor = self.height - BOTTOM;
        // Where the names in each of the two rows end.
        let mut taken = [0.0_f64; 2];
        for band in self.bands {
            let hour = |time: std::time::Duration| self.x(time.as_secs_f64() / self.hour_seconds);
            let (from, until) = (hour(band.from), hour(band.until));
            let width = (until - from).max(2.0);
            let story = escape(&band.story);
            let _ = writeln!(
                out,
                "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\"><title>{story}</title></rect>",
                floor - TOP
            );
            if let Some(drained) = band.drained.map(hour).filter(|drained| *drained > until + 1.0) {
                let _ = writeln!(
                    out,
                    "<rect class=\"drain\" x=\"{until:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{story}</title></rect>",
                    drained - until,
                    floor - TOP
                );
            }
            let wide = band.label.len() as f64 * 6.3;
            let row = usize::from(taken[0] > from);
            taken[row] = from + wide + 6.0;
            let _ = writeln!(
                out,
                "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                from.min(WIDTH - wide),
                if row == 0 { TOP - 6.0 } else { TOP - 20.0 },
                escape(&band.label)
            );
        }
    }

    fn write_series(&self, series: &Series, out: &mut String) {
        let count = series.values.len();
        if count == 0 {
            return;
        }
        let step = self.hours / count as f64;
        // In the middle of its step.
        let points: Vec<String> = series
            .values
            .iter()
            .enumerate()
            .map(|(n, value)| format!("{:.1},{:.1}", self.x((n as f64 + 0.5) * step), self.y(*value)))
            .collect();
        let line = points.join(" ");
        if series.filled {
            let floor = self.height - BOTTOM;
            let (first, last) = (self.x(0.5 * step), self.x((count as f64 - 0.5) * step));
            let class = series.class;
            let _ = writeln!(
                out,
                "<polygon class=\"{class} area\" points=\"{first:.1},{floor} {line} {last:.1},{floor}\"/>"
            );
        }
        let _ = writeln!(out, "<polyline class=\"{} line\" points=\"{line}\"/>", series.class);
    }
}

/// Text that is safe in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_holds_its_values_and_its_bands() {
        let band = |from, until, drained: Option<u64>| Band {
            label: "a < b".to_owned(),
            from: std::time::Duration::from_secs(from),
            until: std::time::Duration::from_secs(until),
            drained: drained.map(std::time::Duration::from_secs),
            story: "\"quoted\" & told".to_owned(),
        };
        let bands = [band(3600, 7200, Some(9000)), band(3700, 3700, None)];
        let chart = Chart {
            title: "it",
            height: 200.0,
            hours: 24.0,
            hour_seconds: 3600.0,
            bands: &bands,
            scale: Scale::Linear,
            name: |value| format!("{value:.0}"),
            series: vec![Series { class: "s", filled: true, values: vec![0.0, 37.0, 12.0] }],
        };
        assert_eq!(chart.highest(), 40.0);
        let svg = chart.svg();
        for part in
            ["class=\"band\"", "class=\"drain\"", "a &lt; b", "&quot;quoted&quot; &amp; told", "polygon", ">40<"]
        {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        // All of it lies in the picture.
        assert!(chart.y(1e9) >= TOP && chart.y(0.0) <= 200.0 - BOTTOM && chart.x(99.0) <= WIDTH);
    }

    #[test]
    fn a_logarithmic_axis_has_its_ends_where_it_says() {
        let chart = Chart {
            title: "it",
            height: 200.0,
            hours: 24.0,
            hour_seconds: 3600.0,
            bands: &[],
            scale: Scale::Logarithmic(0.01, 1000.0),
            name: |value| value.to_string(),
            series: Vec::new(),
        };
        assert_eq!(chart.ticks().len(), 6);
        assert!((chart.y(0.01) - (200.0 - BOTTOM)).abs() < 1e-6 && (chart.y(1000.0) - TOP).abs() < 1e-6);
        assert!((chart.y(1e-9) - (200.0 - BOTTOM)).abs() < 1e-6, "what is below stands at the floor");
    }
}
