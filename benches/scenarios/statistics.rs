//! What is said of a handful of measurements: the middle, and how far apart they lie.

/// Measurements of one thing, in the order in which they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn extend(&mut self, values: impl IntoIterator<Item = f64>) {
        self.0.extend(values);
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Returns the middle one, or the mean of the middle two; 0 of none.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            count if count % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or_default()
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or_default()
    }

    /// Returns the least and the most: how far the rounds lie apart.
    pub(crate) fn spread(&self) -> f64 {
        self.most() - self.least()
    }

    /// Returns the smallest one that `share` (0 to 1) of them do not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let sorted = self.sorted();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank is a small count"
        )]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
    }
}

/// Which of two figures is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Less,
    More,
}

/// What becomes of something between two builds. A difference counts when the medians lie farther apart than the
/// rounds of either build do among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Better,
    Same,
    Worse,
}

impl Verdict {
    pub(crate) fn of(new: &Sample, old: &Sample, better: Better) -> Self {
        let gain = match better {
            Better::Less => old.median() - new.median(),
            Better::More => new.median() - old.median(),
        };
        let spread = new.spread().max(old.spread());
        if gain > spread {
            Self::Better
        } else if gain < -spread {
            Self::Worse
        } else {
            Self::Same
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Better => "better by more than the spread",
            Self::Same => "same, within the spread",
            Self::Worse => "**worse by more than the spread**",
        }
    }
}
