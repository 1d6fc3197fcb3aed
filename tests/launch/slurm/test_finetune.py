"""launch=slurm submits fine-tuning by the same script, which then runs finetune."""

from launch.cli import main


def test_the_script_of_a_fine_tuning_job_runs_finetune(tmp_path, capsys, corpus, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verb, named in (("finetune", True), ("pretrain", False)):
        arguments = [verb, f"data.path={corpus}", "launch=slurm", "launch.dry_run=true", "run.name=first"]
        more = [f"checkpoint.fork_from={tmp_path}"] if verb == "finetune" else []
        assert main([*arguments, *more]) == 0
        script = capsys.readouterr().out
        assert ("export BANYAN_VERB=finetune" in script) == named
        assert 'launch "${BANYAN_VERB:-pretrain}" launch=slurm' in script
