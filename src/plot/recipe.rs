//! The paper's figures by name: each is a set of options of `lpa plot`.

use crate::curve::{Along, Ending};
use crate::plot::Panels;

/// A figure of the paper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Columns of the table, with commas between.
    pub metrics: &'static str,
    /// By what runs are dealt.
    dealt: Deal,
    /// By what those of a column are told apart.
    labels: &'static [&'static str],
    /// What points lie along.
    pub along: Along,
    /// What of the end is left out.
    pub ending: Ending,
    /// What a reader must know of it.
    pub note: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Deal {
    Together,
    Of(&'static str),
    Varying(&'static [&'static str]),
}

/// Sizes of models.
const SIZE: &[&str] = &["model", "width"];
const BATCH: &[&str] = &["batch"];
const OPTIMIZER: &[&str] = &["optimizer"];
const CHANCE: Deal = Deal::Varying(&["seed", "epochs"]);
const DATASET: Deal = Deal::Of("dataset");

const fn recipe(
    name: &'static str,
    shows: &'static str,
    metrics: &'static str,
    dealt: Deal,
    labels: &'static [&'static str],
) -> Recipe {
    Recipe { name, shows, metrics, dealt, labels, along: Along::Epoch, ending: Ending::Epoch, note: None }
}

/// All of them.
pub(crate) const RECIPES: [Recipe; 14] = [
    recipe(
        "fig1",
        "the cosine by size of the model, batch size and optimizer, a panel a dataset",
        "cos",
        DATASET,
        &["model", "width", "batch", "optimizer"],
    ),
    recipe("fig2", "RSI, error bound and cosine of a training on each dataset", "rsi,eb,cos", DATASET, &[]),
    recipe("fig3", "the locally optimal learning rate of a training on each dataset", "lolr", DATASET, &[]),
    recipe("fig4", "the cosine by seed and by number of epochs, a panel each", "cos", CHANCE, &[]),
    Recipe {
        along: Along::Step,
        ending: Ending::Percent(5.0),
        note: Some("ALM and SM of lpa simulate are reconstructions from the paper's text."),
        ..recipe(
            "fig5",
            "RSI and cosine of lpa simulate alm and sm, where they are negative",
            "rsi,cos",
            Deal::Of("simulated"),
            &[],
        )
    },
    recipe("fig6", "the cosine by batch size", "cos", Deal::Together, BATCH),
    recipe("fig7", "RSI and error bound by size of the model", "rsi,eb", Deal::Together, SIZE),
    recipe(
        "fig8",
        "RSI and error bound by batch size (the paper: WikiText-2)",
        "rsi,eb",
        Deal::Together,
        BATCH,
    ),
    recipe("fig9", "RSI and error bound by optimizer", "rsi,eb", Deal::Together, OPTIMIZER),
    recipe("fig10", "RSI and error bound by seed and by number of epochs", "rsi,eb", CHANCE, &[]),
    recipe(
        "fig11",
        "RSI and error bound by batch size (the paper: CIFAR-10)",
        "rsi,eb",
        Deal::Together,
        BATCH,
    ),
    recipe("fig12", "the distance by optimizer", "dist", Deal::Together, OPTIMIZER),
    recipe("fig13", "the distance of a training on each dataset", "dist", DATASET, &[]),
    recipe("fig14", "the cosine of a perceptron and of a residual network", "cos", Deal::Together, SIZE),
];

impl Recipe {
    /// By what runs are dealt.
    pub(crate) fn panels(&self) -> Panels {
        match self.dealt {
            Deal::Together => Panels::Together,
            Deal::Of(key) => Panels::Of(key.to_owned()),
            Deal::Varying(keys) => Panels::Varying(keys.iter().map(|&key| key.to_owned()).collect()),
        }
    }

    /// By what those of a column are told apart.
    pub(crate) fn label(&self) -> Vec<String> {
        self.labels.iter().map(|&key| key.to_owned()).collect()
    }

    /// The same as options of the command.
    pub(crate) fn options(&self) -> String {
        let dealt = match self.dealt {
            Deal::Together => String::new(),
            Deal::Of(key) => format!(" --panels {key}"),
            Deal::Varying(keys) => format!(" --vary {}", keys.join(",")),
        };
        let label = if self.labels.is_empty() {
            String::new()
        } else {
            format!(" --label {}", self.labels.join(","))
        };
        let along = if self.along == Along::Epoch { "epoch" } else { "step" };
        format!("{}{dealt}{label} --x {along} --drop-last {}", self.metrics, self.ending)
    }
}
