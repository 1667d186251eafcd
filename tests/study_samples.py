"""A tiny Study made by hand: every kind of panel, cell and outcome. Shared by several tests."""

from dataclasses import replace

from reproduce.study import Figure, Finding, Line, Map, Mark, Panel, Study, StudyName, Table

LOSSES = Panel(
    title="25% outliers",
    x_label="step",
    y_label="test loss",
    x_log=False,
    y_log=True,
    lines=(
        Line(
            label="uniform",
            strategy="uniform",
            x=(0, 10, 20, 30),
            y=(4.0, 2.0, 1.0, 0.5),
            low=(3.5, 1.5, 0.75, 0.25),
            high=(4.5, 2.5, 1.25, 0.75),
        ),
        Line(label="linupper r=0.4", strategy="linupper", x=(0, 10, 20, 30), y=(4.0, 1.0, 0.75, 0.625)),
        Line(label="linupper r=1", strategy="linupper", x=(0, 10, 20, 30), y=(4.0, 1.5, 0.875, 0.5625)),
        Line(label="DRO-KL, λ=0.4", strategy="dro_kl", x=(0, 10, 20, 30), y=(4.0, 1e12, None, None)),
    ),
    marks=(Mark(axis="y", at=0.25, label="noise"), Mark(axis="x", at=10.0, label="threshold")),
)

WHO_WINS = Map(
    title="final loss beside uniform",
    x_label="outlier share",
    y_label="r",
    x_names=("0", "0.25"),
    y_names=("0.4", "1", "2"),
    values=((-0.5, 0.75), (-0.25, 0.125), (0.0, None)),
    texts=(("-50%", "+75%"), ("-25%", "+12%"), ("0%", "diverges")),
)


def sample_study(study: StudyName = "regression") -> Study:
    """A study of two tables, two figures, four findings."""
    return Study(
        study=study,
        title=f"Toy {study}",
        command=f"reweight toy {study} --seeds 8",
        settings={"seeds": 8, "lr": 0.01, "strategies": ("uniform", "linupper"), "momentum": None},
        versions={"reweight": "0.1.0", "torch": "2.13.0"},
        tables=(
            Table(
                id="final",
                title="Test loss after the last step",
                columns=("strategy", "loss", "steps to 1", "diverged"),
                rows=(
                    ("uniform", 0.5, 20, 0.0),
                    ("linupper", 0.612345678, 10, 0.0),
                    ("dro_kl", None, None, 1.0),
                ),
            ),
            Table(
                id="rates",
                title="Largest learning rate",
                columns=("strategy", "lr"),
                rows=(("uniform", 1e-05),),
            ),
        ),
        figures=(
            Figure(id="loss", title="Test loss", caption="Test loss over 8 seeds.", panels=(LOSSES,)),
            Figure(id="map", title="Which wins", caption="Blue is better.", panels=(WHO_WINS,)),
        ),
        findings=(
            Finding(
                claim="LinUpper reaches the threshold first",
                source="Figure 7",
                outcome="only_where",
                where="outlier share at most 0.1",
                evidence="10 steps against 20",
                seeds=8,
            ),
            Finding(
                claim="DRO-KL diverges at the learning rate of the others",
                source="Figure 8",
                outcome="holds",
                where="",
                evidence="8 of 8 runs",
                seeds=8,
            ),
            Finding(
                claim="LinUpper ends lowest",
                source="ours",
                outcome="does_not",
                where="",
                evidence="0.6123 against 0.5",
                seeds=8,
            ),
            Finding(
                claim="The order of r does not matter",
                source="ours",
                outcome="unresolved",
                where="",
                evidence="intervals overlap",
                seeds=8,
            ),
        ),
        numbers={"final_linupper": 0.612345678, "seeds": 8, "winner": "uniform", "none": None},
    )


def renamed(study: Study, text: str) -> Study:
    """The study with `text` in every place that takes any text."""
    line = replace(LOSSES.lines[0], label=text, strategy=text)
    panel = replace(LOSSES, title=text, x_label=text, y_label=text, lines=(line,))
    panel = replace(panel, marks=(Mark(axis="y", at=1.0, label=text),))
    grid = replace(
        WHO_WINS, title=text, x_label=text, y_label=text, x_names=(text, text), y_names=(text,) * 3
    )
    grid = replace(grid, texts=((text, text),) * 3)
    return replace(
        study,
        title=text,
        command=f"reweight toy regression {text}",
        settings={text: text, "list": (text, text)},
        versions={text: text},
        tables=tuple(
            replace(
                table, title=text, columns=(text,) * len(table.columns), rows=((text,) * len(table.columns),)
            )
            for table in study.tables
        ),
        figures=tuple(
            replace(each, title=text, caption=text, panels=(panel, grid)) for each in study.figures
        ),
        findings=tuple(
            replace(finding, claim=text, source=text, where=text, evidence=text) for finding in study.findings
        ),
        numbers={text: text},
    )
