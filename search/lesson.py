"""What proposers that train learn from, and the job in which they do."""

from __future__ import annotations

from niwaki.search.checks import proposer_class
from niwaki.search.context import Context, trial_device
from niwaki.search.costing import Limits
from niwaki.search.formats import Facts, read_checked
from niwaki.search.outcome import Job, Outcome
from niwaki.search.proposers._setup import Learner, Lesson, ProposerSetup, Report
from niwaki.search.subject import aims
from niwaki.search.threads import threads_for


def lesson_of(context: Context, report: Report = lambda done, total: None) -> Lesson:
    """Teacher, training data, answers and scores of a run; checkpoints go to its folder.

    While a proposer learns no trial runs, so that it may have all threads that pay.
    """
    config = context.config
    macs = context.space.cost(context.space.largest()).macs
    return Lesson(
        context.teacher, context.data, context.scores, context.folder.path, trial_device(config),
        threads_for(macs * config.train.batch_size), context.recipe, context.answers, report,
    )  # fmt: skip


def learn(job: Job, context: Context, report: Report) -> Outcome:
    """Have the proposer of the run learn what its driver will read in the run folder."""
    config = context.config
    limits = Limits(read_checked(context.folder.facts, Facts)["limits"], {})
    setup = ProposerSetup(
        context.space, context.costing, aims(limits, context.costing), config.search.levels, config.run.seed,
        lesson=lesson_of(context, report),
    )  # fmt: skip
    proposer = proposer_class(config)(setup)
    if not isinstance(proposer, Learner):
        raise TypeError(f"search.proposer: {config.search.proposer!r} has nothing to learn")
    proposer.learn()
    return Outcome(job, context.costing.cost(job.candidate), images=job.images)
